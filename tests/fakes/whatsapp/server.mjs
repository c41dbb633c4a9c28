// A WhatsApp server for one account, on loopback: commands are lines of JSON on stdin, what happens goes to stdout.
// `node server.mjs KEY.pem CERT.pem WORLD.json`; `ready` says the proxy's port and the root key that a client must pin.
import { createCipheriv, createHash, createHmac, randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { deflateSync } from 'node:zlib'
import { Curve, getMediaKeys, proto } from 'baileys'
import { serve } from './proxy.mjs'
import { Session } from './session.mjs'
import { World } from './world.mjs'

const [keyFile, certFile, worldFile] = process.argv.slice(2)
const root = Curve.generateKeyPair()
const world = new World(JSON.parse(readFileSync(worldFile, 'utf8')))
const tell = event => process.stdout.write(JSON.stringify(event) + '\n')
const mode = { failure: null, down: false, offersPairing: true, silent: false, refuses: '', hasty: false, codes: 6, held: false }
let session = null

const proxy = await serve({
  key: readFileSync(keyFile),
  cert: readFileSync(certFile),
  refuses: () => mode.down,
  onRequest: request => tell({ event: 'http', ...request }),
  onSocket: socket => {
    const { failure, offersPairing, codes } = mode
    const mine = new Session(socket, { world, root: root.private, tell, failure, offersPairing, codes })
    Object.assign(mine, { silent: mode.silent, refuses: mode.refuses, hasty: mode.hasty })
    session = mine
    mine.onClose = () => {
      tell({ event: 'closed' })
      if (session === mine) session = null
    }
  },
})

const seconds = () => Math.floor(Date.now() / 1000)

// The names in a stanza: by number, by LID, or by LID with the number left out.
function from(phone, by, prefix) {
  if (by === 'pn') return { [prefix === 'sender' ? 'from' : 'participant']: phone.jid, [`${prefix}_lid`]: phone.lidJid }
  const names = { [prefix === 'sender' ? 'from' : 'participant']: phone.lidJid }
  return by === 'lid' ? { ...names, [`${prefix}_pn`]: phone.jid } : names
}

async function stanza({ chat, sender, message, id, t, by = 'lid', category, offline, edit }) {
  const phone = sender ? world.phone(sender) : world.account
  const group = world.group(chat)
  const body = proto.Message.fromObject(message)
  const media = ['imageMessage', 'videoMessage', 'audioMessage', 'documentMessage'].some(kind => message[kind])
  const attrs = { id: id ?? randomUUID().replaceAll('-', '').toUpperCase(), t: String(t ?? seconds()), notify: phone.name, type: media ? 'media' : 'text' }
  if (category) attrs.category = category
  if (edit) attrs.edit = edit
  const enc = ({ type, ciphertext }) => ({ tag: 'enc', attrs: { v: '2', type }, content: ciphertext })
  return phone.alone(async () => {
    if (group) {
      const { sealed, direct } = await phone.encryptForGroup(world.client, group.id, body)
      const names = { from: group.id, addressing_mode: group.mode, ...from(phone, by, 'participant') }
      const content = [...(direct ? [enc(direct)] : []), enc({ type: 'skmsg', ciphertext: sealed })]
      return { tag: 'message', attrs: { ...attrs, ...names }, content }
    }
    if (phone === world.account) {
      const other = chat === 'self' ? world.account : world.phone(chat)
      const wrapped = category ? body : { deviceSentMessage: { destinationJid: other.jid, message: body } }
      const names = by === 'pn'
        ? { from: phone.jid, recipient: other.jid, peer_recipient_lid: other.lidJid }
        : { from: phone.lidJid, recipient: other.lidJid, peer_recipient_pn: other.jid }
      if (category) delete names.recipient
      return { tag: 'message', attrs: { ...attrs, ...names }, content: [enc(await phone.encrypt(world.client, wrapped))] }
    }
    return { tag: 'message', attrs: { ...attrs, ...from(phone, by, 'sender') }, content: [enc(await phone.encrypt(world.client, body))] }
  })
}

async function deliver(command) {
  const node = await stanza(command)
  world.waiting.set(node.attrs.id, node)
  if (session?.loggedIn && !mode.held) session.send(node)
  return { id: node.attrs.id }
}

const errors = {
  replaced: { tag: 'stream:error', attrs: {}, content: [{ tag: 'conflict', attrs: { type: 'replaced' } }] },
  removed: { tag: 'stream:error', attrs: { code: '401' }, content: [{ tag: 'conflict', attrs: { type: 'device_removed' } }] },
}

const commands = {
  scan: ({ code }) => session.scan(code),
  type: ({ code }) => session.type(code),
  message: deliver,
  // A file as the sender's phone would upload it: what its message says of it.
  upload: async ({ data, kind, mimetype }) => {
    const plain = Buffer.from(data, 'base64')
    const mediaKey = randomBytes(32)
    const { iv, cipherKey, macKey } = await getMediaKeys(mediaKey, kind)
    const cipher = createCipheriv('aes-256-cbc', cipherKey, iv)
    const sealed = Buffer.concat([cipher.update(plain), cipher.final()])
    const mac = createHmac('sha256', macKey).update(iv).update(sealed).digest().subarray(0, 10)
    const whole = Buffer.concat([sealed, mac])
    const hash = value => createHash('sha256').update(value).digest('base64')
    const directPath = proxy.keep(whole)
    return {
      url: `https://mmg.whatsapp.net${directPath}`, directPath, mimetype, fileLength: plain.length,
      mediaKey: mediaKey.toString('base64'), fileSha256: hash(plain), fileEncSha256: hash(whole), mediaKeyTimestamp: seconds(),
    }
  },
  // A file that the client uploaded, decrypted with what its message says.
  download: async ({ path, mediaKey, kind }) => {
    const whole = proxy.read(path)
    const { iv, cipherKey } = await getMediaKeys(Buffer.from(mediaKey, 'base64'), kind)
    const { createDecipheriv } = await import('node:crypto')
    const decipher = createDecipheriv('aes-256-cbc', cipherKey, iv)
    const plain = Buffer.concat([decipher.update(whole.subarray(0, -10)), decipher.final()])
    return { data: plain.toString('base64') }
  },
  forget: ({ path }) => proxy.forget(path),
  history: ({ history }) => {
    const payload = deflateSync(proto.HistorySync.encode(proto.HistorySync.fromObject(history)).finish())
    const notification = { syncType: 0, initialHistBootstrapInlinePayload: payload.toString('base64'), chunkOrder: 1, progress: 100 }
    const message = { protocolMessage: { type: 5, historySyncNotification: notification } }
    return deliver({ chat: 'self', message, category: 'peer', by: 'pn' })
  },
  receipt: ({ chat, sender, ids, kind }) => {
    const group = world.group(chat)
    const phone = world.phone(sender ?? chat)
    const names = group ? { from: chat, participant: group.mode === 'lid' ? phone.lidJid : phone.jid } : { from: phone.jid }
    const rest = ids.slice(1)
    const content = rest.length ? [{ tag: 'list', attrs: {}, content: rest.map(id => ({ tag: 'item', attrs: { id } })) }] : undefined
    session.send({ tag: 'receipt', attrs: { id: ids[0], t: String(seconds()), ...(kind ? { type: kind } : {}), ...names }, content })
  },
  rename: ({ group, subject, by }) => {
    world.group(group).subject = subject
    const author = world.phone(by).jid
    const content = [{ tag: 'subject', attrs: { subject, s_t: String(seconds()), s_o: author } }]
    session.send({ tag: 'notification', attrs: { type: 'w:gp2', from: group, participant: author, id: randomUUID(), t: String(seconds()) }, content })
  },
  // What the next connections meet: `failure` (its attributes), `down`, `offersPairing`, how many `codes` to link by.
  // `held`: what is written from now on waits for the next connection, as it does where the network stalls.
  set: changes => {
    for (const name of Object.keys(mode)) if (name in changes) mode[name] = changes[name]
    if (session) Object.assign(session, { silent: mode.silent, refuses: mode.refuses, hasty: mode.hasty })
  },
  end: ({ how }) => session.end(errors[how]),
  raw: ({ node }) => session.send(node),
  unlink: () => world.unlink(),
  drop: () => proxy.cut(),
  waiting: () => ({ ids: [...world.waiting.keys()] }),
  session: () => ({ online: !!session?.loggedIn }),
}

const lines = createInterface({ input: process.stdin })
lines.on('line', async line => {
  const { do: what, n, ...command } = JSON.parse(line)
  try {
    tell({ n, ...((await commands[what](command)) ?? {}) })
  } catch (error) {
    tell({ n, error: String(error?.stack ?? error) })
  }
})
lines.on('close', () => process.exit(0)) // whoever started us is gone
tell({ event: 'ready', port: proxy.port, root: Buffer.from(root.public).toString('hex') })
