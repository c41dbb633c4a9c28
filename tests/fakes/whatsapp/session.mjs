// One connection of the client: what it asks is answered, what it says is decrypted and told to the test.
import { randomBytes } from 'node:crypto'
import { proto } from 'baileys'
import { Noise } from './noise.mjs'
import { TypedCode, pairSuccess, readQr } from './pairing.mjs'

const SERVER = '@s.whatsapp.net'
export const child = (node, tag) => (Array.isArray(node?.content) ? node.content.find(c => c.tag === tag) : undefined)
const children = (node, tag) => (Array.isArray(node?.content) ? node.content.filter(c => c.tag === tag) : [])
const bytes = node => Buffer.from(node?.content ?? [])
const number = node => bytes(node).reduce((sum, byte) => sum * 256 + byte, 0)
const bigEndian = (value, size) => {
  const out = Buffer.alloc(size)
  out.writeUIntBE(value, 0, size)
  return out
}
const plain = message => proto.Message.toObject(message, { bytes: String, longs: Number, enums: String })

export class Session {
  constructor(socket, { world, root, tell, failure, offersPairing, codes }) {
    Object.assign(this, { socket, world, tell, failure, offersPairing, codes })
    this.noise = new Noise(root)
    this.state = 'hello'
    this.refs = []
    this.counter = 0
    this.order = Promise.resolve()
    socket.on('message', data => {
      for (const frame of this.noise.frames(data)) {
        // In order, though some answers take time: a frame is decrypted by its number.
        this.order = this.order.then(() => this.onFrame(frame)).catch(error => {
          this.tell({ event: 'fault', text: String(error?.stack ?? error) })
        })
      }
    })
    socket.on('close', () => this.onClose?.())
  }

  send(node) {
    if (this.state === 'open' && this.socket.readyState === 1) this.socket.send(this.noise.encodeNode(node))
  }

  // The client is told why, and hangs up by itself. A close right behind the reason could overtake it: the library drops
  // what it has not handled when the connection ends.
  end(...nodes) {
    for (const node of nodes) this.send(node)
    this.loggedIn = false
    setTimeout(() => this.socket.close(), this.hasty ? 0 : 2000)
  }

  async onFrame(frame) {
    if (this.state === 'hello') {
      this.socket.send(this.noise.hello(frame))
      this.state = 'finish'
    } else if (this.state === 'finish') {
      const payload = this.noise.finish(frame)
      this.state = 'open'
      await this.began(payload)
    } else {
      await this.onNode(await this.noise.decodeNode(frame))
    }
  }

  async began(payload) {
    const { client } = this.world
    this.tell({ event: 'began', registering: !!payload.devicePairingData })
    if (this.failure) return this.end({ tag: 'failure', attrs: this.failure })
    if (payload.devicePairingData) return this.offersPairing && this.offerPairing()
    if (!client || Number(payload.device) !== client.device) {
      return this.end({ tag: 'failure', attrs: { reason: '401', location: 'test' } })
    }
    const now = String(Math.floor(Date.now() / 1000))
    this.send({ tag: 'success', attrs: { t: now, lid: client.lid, props: '1', creation: now, location: 'test' } })
    this.loggedIn = true
    this.tell({ event: 'login', jid: client.jid })
    const waiting = [...this.world.waiting.values()]
    this.send({ tag: 'ib', attrs: { from: SERVER }, content: [
      { tag: 'offline_preview', attrs: { count: String(waiting.length), message: String(waiting.length), receipt: '0', notification: '0', appdata: '0' } },
    ] })
    for (const node of waiting) this.send({ ...node, attrs: { ...node.attrs, offline: '0' } })
    this.send({ tag: 'ib', attrs: { from: SERVER }, content: [{ tag: 'offline', attrs: { count: String(waiting.length) } }] })
  }

  // --- linking ---

  offerPairing() {
    this.refs = Array.from({ length: this.codes }, () => randomBytes(24).toString('base64'))
    const content = this.refs.map(ref => ({ tag: 'ref', attrs: {}, content: Buffer.from(ref) }))
    this.iq('set', 'md', [{ tag: 'pair-device', attrs: {}, content }])
  }

  scan(text) {
    const { ref, identity, secret } = readQr(text)
    if (!this.refs.includes(ref)) throw new Error('not a code of this connection')
    this.succeed(identity, secret)
  }

  async type(code) {
    const hello = await this.typed.hello(code)
    this.send({ tag: 'notification', attrs: { type: 'link_code_companion_reg', from: SERVER, id: this.nextId(), t: '1' }, content: [hello] })
  }

  succeed(identity, secret) {
    const client = this.world.link()
    const success = pairSuccess({ phone: this.world.account, device: client.device, identity, secret })
    this.iq('set', 'md', [success])
  }

  onPairing(node) {
    const part = child(node, 'link_code_companion_reg')
    if (part.attrs.stage === 'companion_hello') {
      this.typed = new TypedCode(this.world.account, bytes(child(part, 'link_code_pairing_wrapped_companion_ephemeral_pub')))
      const ref = { tag: 'link_code_pairing_ref', attrs: {}, content: this.typed.ref }
      this.result(node, [{ tag: 'link_code_companion_reg', attrs: { stage: 'companion_hello' }, content: [ref] }])
      this.tell({ event: 'phone', jid: part.attrs.jid })
    } else {
      this.result(node)
      const { identity, secret } = this.typed.finish(bytes(child(part, 'link_code_pairing_wrapped_key_bundle')))
      this.succeed(identity, secret)
    }
  }

  // --- what the client says ---

  nextId() {
    return `server-${++this.counter}`
  }

  iq(type, xmlns, content) {
    this.send({ tag: 'iq', attrs: { from: SERVER, id: this.nextId(), type, xmlns }, content })
  }

  result(node, content) {
    this.send({ tag: 'iq', attrs: { from: node.attrs.to ?? SERVER, id: node.attrs.id, type: 'result' }, content })
  }

  async onNode(node) {
    const handlers = { iq: 'onIq', message: 'onMessage', receipt: 'onReceipt', chatstate: 'onState', presence: 'onState' }
    if (handlers[node.tag]) await this[handlers[node.tag]](node)
  }

  onState(node) {
    this.tell({ event: node.tag, to: node.attrs.to, kind: node.attrs.type ?? node.content?.[0]?.tag, media: node.content?.[0]?.attrs?.media })
  }

  onReceipt(node) {
    const ids = [node.attrs.id, ...children(child(node, 'list'), 'item').map(item => item.attrs.id)]
    if (!['retry', 'read', 'read-self'].includes(node.attrs.type)) ids.forEach(id => this.world.waiting.delete(id))
    this.tell({ event: 'receipt', ids, to: node.attrs.to, participant: node.attrs.participant, kind: node.attrs.type ?? 'delivered' })
    this.send({ tag: 'ack', attrs: { class: 'receipt', id: node.attrs.id, to: SERVER, from: node.attrs.to } })
  }

  async onIq(node) {
    const { xmlns, type } = node.attrs
    if (type === 'result' || type === 'error') {
      if (child(node, 'pair-device-sign')) {
        this.tell({ event: 'paired' })
        // The client is to come back with its new name.
        this.end({ tag: 'stream:error', attrs: { code: '515' } })
      }
      return
    }
    const answer = this.answers[`${xmlns} ${type}`]
    if (answer) await answer.call(this, node)
    else this.result(node)
  }

  answers = {
    'encrypt get': async node => {
      if (child(node, 'count')) return this.result(node, [{ tag: 'count', attrs: { value: String(this.world.client.preKeys.length) } }])
      const users = children(child(node, 'key'), 'user')
      const content = await Promise.all(users.map(user => this.bundle(user.attrs.jid)))
      this.result(node, [{ tag: 'list', attrs: {}, content }])
    },
    'encrypt set': node => {
      const key = part => ({ keyId: number(child(part, 'id')), publicKey: bytes(child(part, 'value')) })
      const list = child(node, 'list')
      if (list) {
        const signed = child(node, 'skey')
        this.world.client.upload({
          registration: number(child(node, 'registration')),
          identity: bytes(child(node, 'identity')),
          signed: { ...key(signed), signature: bytes(child(signed, 'signature')) },
          preKeys: children(list, 'key').map(key),
        })
        this.tell({ event: 'keys', count: this.world.client.preKeys.length })
      }
      this.result(node)
    },
    'usync get': node => this.onUsync(node),
    'w:g2 get': node => this.onGroups(node),
    'w:m set': node => this.result(node, [{
      tag: 'media_conn',
      attrs: { auth: 'test', ttl: '300', auth_ttl: '3600', max_buckets: '12' },
      content: [{ tag: 'host', attrs: { hostname: 'mmg.whatsapp.net' } }],
    }]),
    'md set': async node => {
      if (child(node, 'link_code_companion_reg')) return this.onPairing(node)
      this.result(node)
      if (child(node, 'remove-companion-device')) {
        await this.world.unlink()
        this.tell({ event: 'logout' })
        this.end({ tag: 'stream:error', attrs: { code: '401' }, content: [{ tag: 'conflict', attrs: { type: 'device_removed' } }] })
      }
    },
    'w:sync:app:state set': node => {
      const content = children(child(node, 'sync'), 'collection').map(({ attrs }) => ({
        tag: 'collection', attrs: { name: attrs.name, version: attrs.version ?? '0', has_more_patches: 'false' },
      }))
      this.result(node, [{ tag: 'sync', attrs: {}, content }])
    },
  }

  async bundle(jid) {
    const phone = this.world.phone(jid)
    if (!phone) return { tag: 'user', attrs: { jid }, content: [{ tag: 'error', attrs: { code: '404', text: 'not-found' } }] }
    const { registration, identity, signed, id, pair } = await phone.bundle()
    const value = (tag, content) => ({ tag, attrs: {}, content })
    return {
      tag: 'user',
      attrs: { jid, t: '1' },
      content: [
        value('registration', bigEndian(registration, 4)),
        value('type', Buffer.from([5])),
        value('identity', identity),
        value('skey', [value('id', bigEndian(signed.keyId, 3)), value('value', signed.keyPair.public), value('signature', signed.signature)]),
        value('key', [value('id', bigEndian(id, 3)), value('value', pair.public)]),
      ],
    }
  }

  onUsync(node) {
    const query = child(node, 'usync')
    const asked = (child(query, 'query')?.content ?? []).map(part => part.tag)
    const users = children(child(query, 'list'), 'user').map(user => {
      const phone = this.world.phone(user.attrs.jid ?? '')
      const content = []
      if (asked.includes('devices')) {
        const mine = phone === this.world.account && this.world.client ? [this.world.client.device] : []
        const list = [0, ...mine].map(id => ({ tag: 'device', attrs: { id: String(id), 'key-index': String(id) } }))
        content.push({ tag: 'devices', attrs: {}, content: [{ tag: 'device-list', attrs: {}, content: phone ? list : [] }] })
      }
      if (asked.includes('lid') && phone) content.push({ tag: 'lid', attrs: { val: phone.lidJid } })
      if (asked.includes('contact')) content.push({ tag: 'contact', attrs: { type: phone ? 'in' : 'out' } })
      return { tag: 'user', attrs: { jid: user.attrs.jid }, content }
    })
    const attrs = { sid: query.attrs.sid, mode: query.attrs.mode, context: query.attrs.context, index: '0', last: 'true' }
    this.result(node, [{ tag: 'usync', attrs, content: [{ tag: 'list', attrs: {}, content: users }] }])
  }

  groupNode(group) {
    const { account } = this.world
    const lid = group.mode === 'lid'
    const participants = group.members.map(pn => {
      const phone = this.world.phone(pn)
      const names = lid ? { jid: phone.lidJid, phone_number: phone.jid } : { jid: phone.jid, lid: phone.lidJid }
      return { tag: 'participant', attrs: phone === account ? { ...names, type: 'admin' } : names }
    })
    const creator = lid ? account.lidJid : account.jid
    return {
      tag: 'group',
      attrs: {
        id: group.id.split('@')[0], subject: group.subject, creator, s_o: creator, s_t: '1700000000', creation: '1700000000',
        addressing_mode: group.mode, p_v_id: '1', a_v_id: '1',
      },
      content: participants,
    }
  }

  onGroups(node) {
    if (child(node, 'participating')) {
      return this.result(node, [{ tag: 'groups', attrs: {}, content: this.world.groups.map(group => this.groupNode(group)) }])
    }
    const group = this.world.group(node.attrs.to)
    if (group) return this.result(node, [this.groupNode(group)])
    this.send({ tag: 'iq', attrs: { from: node.attrs.to, id: node.attrs.id, type: 'error' }, content: [{ tag: 'error', attrs: { code: '404', text: 'item-not-found' } }] })
  }

  // --- messages of the client ---

  async onMessage(node) {
    const { to, id } = node.attrs
    if (this.silent) return // the client never learns whether it went out
    if (this.refuses) {
      return this.send({ tag: 'ack', attrs: { class: 'message', id, from: to, error: this.refuses } })
    }
    const now = Math.floor(Date.now() / 1000)
    this.send({ tag: 'ack', attrs: { class: 'message', id, from: to, t: String(now), ...(node.attrs.phash ? { phash: node.attrs.phash } : {}) } })
    const { client } = this.world
    const group = this.world.group(to)
    const readers = []
    let message
    const targets = children(child(node, 'participants'), 'to')
    for (const target of targets) {
      const phone = this.world.phone(target.attrs.jid)
      if (!phone || /:[1-9]/.test(target.attrs.jid)) continue
      const enc = child(target, 'enc')
      const found = await phone.alone(() => phone.decrypt(client, enc.attrs.type, bytes(enc)))
      if (found.senderKeyDistributionMessage) await phone.learnSenderKey(client, found.senderKeyDistributionMessage)
      if (!group) {
        readers.push(phone.pn)
        message ??= found.deviceSentMessage?.message ?? found
      }
    }
    const direct = child(node, 'enc')
    if (!group && direct && !message) {
      const phone = this.world.phone(to)
      message = await phone.alone(() => phone.decrypt(client, direct.attrs.type, bytes(direct)))
      readers.push(phone.pn)
    }
    if (group && direct) {
      for (const pn of group.members) {
        const phone = this.world.phone(pn)
        try {
          message = await phone.alone(() => phone.decryptFromGroup(client, to, bytes(direct)))
          readers.push(pn)
        } catch (error) {
          this.tell({ event: 'undecryptable', id, by: pn, text: String(error) })
        }
      }
    }
    this.tell({ event: 'sent', id, to, kind: node.attrs.type, edit: node.attrs.edit, readers, message: message && plain(message), bot: !!child(node, 'bot') })
  }
}
