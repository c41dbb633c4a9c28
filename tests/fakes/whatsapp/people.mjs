// Those who talk with the client: each has one phone, with Signal keys and sessions of its own.
import { Curve, encodeWAMessage, generateRegistrationId, proto, signedKeyPair, unpadRandomMax16 } from 'baileys'
import { makeLibSignalRepository } from 'baileys/lib/Signal/libsignal.js'

const silent = { level: 'silent', child: () => silent }
for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal']) silent[level] = () => {}

function memory() {
  const kept = {}
  return {
    async get(kind, ids) {
      return Object.fromEntries(ids.filter(id => kept[kind]?.[id]).map(id => [id, kept[kind][id]]))
    },
    async set(changes) {
      for (const [kind, values] of Object.entries(changes)) {
        kept[kind] ??= {}
        for (const [id, value] of Object.entries(values)) {
          if (value === null) delete kept[kind][id]
          else kept[kind][id] = value
        }
      }
    },
    transaction: work => work(),
    isInTransaction: () => false,
  }
}

export class Phone {
  constructor({ pn, lid, name }) {
    Object.assign(this, { pn, lid, name })
    this.identity = Curve.generateKeyPair()
    this.signed = signedKeyPair(this.identity, 1)
    this.registration = generateRegistrationId()
    this.preKeys = memory()
    this.nextPreKey = 1
    this.told = new Set() // groups whose sender key the client has from us
    this.turn = Promise.resolve() // one thing at a time: sessions are not to be raced
    const creds = {
      signedIdentityKey: this.identity,
      signedPreKey: this.signed,
      registrationId: this.registration,
    }
    this.signal = makeLibSignalRepository({ creds, keys: this.preKeys }, silent)
  }

  get jid() {
    return `${this.pn}@s.whatsapp.net`
  }

  get lidJid() {
    return `${this.lid}@lid`
  }

  alone(work) {
    const next = this.turn.then(work)
    this.turn = next.catch(() => {})
    return next
  }

  // A key of ours for somebody who wants to begin a session with this phone.
  async bundle() {
    const id = this.nextPreKey++
    const pair = Curve.generateKeyPair()
    await this.preKeys.set({ 'pre-key': { [id]: pair } })
    return { registration: this.registration, identity: this.identity.public, signed: this.signed, id, pair }
  }

  // `client`: its device, with the keys that it uploaded.
  async encrypt(client, message) {
    if (!(await this.signal.validateSession(client.jid)).exists) {
      await this.signal.injectE2ESession({ jid: client.jid, session: client.takeBundle() })
    }
    return this.signal.encryptMessage({ jid: client.jid, data: encodeWAMessage(message) })
  }

  async forget(client) {
    this.told.clear()
    await this.signal.deleteSession([client.jid])
  }

  async decrypt(client, type, ciphertext) {
    const plain = await this.signal.decryptMessage({ jid: client.jid, type, ciphertext })
    return proto.Message.decode(unpadRandomMax16(plain))
  }

  // For a group: the message once for all, and for one who has not had it yet, our sender key.
  async encryptForGroup(client, group, message) {
    const data = encodeWAMessage(message)
    const sealed = await this.signal.encryptGroupMessage({ group, meId: this.jid, data })
    if (this.told.has(group)) return { sealed: sealed.ciphertext }
    this.told.add(group)
    const key = { groupId: group, axolotlSenderKeyDistributionMessage: sealed.senderKeyDistributionMessage }
    return { sealed: sealed.ciphertext, direct: await this.encrypt(client, { senderKeyDistributionMessage: key }) }
  }

  async decryptFromGroup(client, group, ciphertext) {
    const plain = await this.signal.decryptGroupMessage({ group, authorJid: client.jid, msg: ciphertext })
    return proto.Message.decode(unpadRandomMax16(plain))
  }

  async learnSenderKey(client, item) {
    await this.signal.processSenderKeyDistributionMessage({ item, authorJid: client.jid })
  }
}
