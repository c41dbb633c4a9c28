// What the server knows: the account, its contacts and groups, the linked device, and what waits for it.
import { Phone } from './people.mjs'

export class Client {
  // The linked device of the account: its names, and the keys that it uploaded.
  constructor(phone, device) {
    this.device = device
    this.jid = `${phone.pn}:${device}@s.whatsapp.net`
    this.lid = `${phone.lid}:${device}@lid`
    this.preKeys = []
  }

  upload(keys) {
    const { preKeys, ...rest } = keys
    Object.assign(this, rest)
    this.preKeys.push(...preKeys)
  }

  takeBundle() {
    const preKey = this.preKeys.shift()
    if (!this.identity) throw new Error('the client has uploaded no keys')
    return {
      registrationId: this.registration,
      identityKey: withType(this.identity),
      signedPreKey: { ...this.signed, publicKey: withType(this.signed.publicKey) },
      preKey: preKey && { keyId: preKey.keyId, publicKey: withType(preKey.publicKey) },
    }
  }
}

function withType(key) {
  return key.length === 33 ? key : Buffer.concat([Buffer.from([5]), key])
}

export class World {
  constructor({ account, contacts, groups }) {
    this.account = new Phone(account)
    this.phones = [this.account, ...contacts.map(contact => new Phone(contact))]
    this.groups = groups // id, subject, mode (`pn` or `lid`), members (pn)
    this.client = null
    this.devices = 0
    this.waiting = new Map() // message id → stanza that the client has not confirmed
  }

  phone(id) {
    const user = id.split('@')[0].split(':')[0]
    return this.phones.find(phone => phone.pn === user || phone.lid === user)
  }

  group(jid) {
    return this.groups.find(group => group.id === jid)
  }

  link() {
    this.client = new Client(this.account, ++this.devices)
    return this.client
  }

  async unlink() {
    if (this.client) for (const phone of this.phones) await phone.forget(this.client)
    this.client = null
    this.waiting.clear()
  }
}
