// The server's side of WhatsApp's Noise handshake (XX, 25519, AES-GCM, SHA-256) and of the frames after it.
import { createCipheriv, createDecipheriv, createHash } from 'node:crypto'
import { Curve, NOISE_MODE, NOISE_WA_HEADER, decodeBinaryNode, encodeBinaryNode, hkdf, proto } from 'baileys'

const NOTHING = Buffer.alloc(0)
const TAG = 16

function nonce(counter) {
  const iv = Buffer.alloc(12)
  iv.writeUInt32BE(counter, 8)
  return iv
}

function seal(plain, key, counter, aad) {
  const cipher = createCipheriv('aes-256-gcm', key, nonce(counter)).setAAD(aad)
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

function open(sealed, key, counter, aad) {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce(counter)).setAAD(aad)
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG))
  return Buffer.concat([decipher.update(sealed.subarray(0, sealed.length - TAG)), decipher.final()])
}

function certificate(root, staticKey) {
  const { Details } = proto.CertChain.NoiseCertificate
  const middle = Curve.generateKeyPair()
  const year = 366 * 24 * 3600
  const now = Math.floor(Date.now() / 1000)
  const dates = { notBefore: now - year, notAfter: now + year }
  const issued = Details.encode({ serial: 1, issuerSerial: 0, key: middle.public, ...dates }).finish()
  const leaf = Details.encode({ serial: 2, issuerSerial: 1, key: staticKey, ...dates }).finish()
  return proto.CertChain.encode({
    intermediate: { details: issued, signature: Curve.sign(root, issued) },
    leaf: { details: leaf, signature: Curve.sign(middle.private, leaf) },
  }).finish()
}

export class Noise {
  constructor(root) {
    this.root = root // private key that the client's pinned key belongs to
    this.hash = Buffer.from(NOISE_MODE)
    this.salt = this.key = this.hash
    this.counter = 0
    this.held = NOTHING
    this.began = false
    this.sending = this.receiving = null
    this.mix(NOISE_WA_HEADER)
  }

  mix(data) {
    this.hash = createHash('sha256').update(this.hash).update(data).digest()
  }

  mixKey(data) {
    const out = Buffer.from(hkdf(data, 64, { salt: this.salt, info: '' }))
    this.salt = out.subarray(0, 32)
    this.key = out.subarray(32)
    this.counter = 0
  }

  encrypt(plain) {
    const sealed = seal(plain, this.key, this.counter++, this.hash)
    this.mix(sealed)
    return sealed
  }

  decrypt(sealed) {
    const plain = open(sealed, this.key, this.counter++, this.hash)
    this.mix(sealed)
    return plain
  }

  // Bytes in, whole frames out.
  frames(data) {
    this.held = Buffer.concat([this.held, data])
    if (!this.began) {
      if (this.held.length < NOISE_WA_HEADER.length) return []
      this.held = this.held.subarray(NOISE_WA_HEADER.length)
      this.began = true
    }
    const found = []
    while (this.held.length >= 3 && this.held.length >= 3 + this.held.readUIntBE(0, 3)) {
      const size = this.held.readUIntBE(0, 3)
      found.push(this.held.subarray(3, 3 + size))
      this.held = this.held.subarray(3 + size)
    }
    return found
  }

  frame(data) {
    const head = Buffer.alloc(3)
    head.writeUIntBE(data.length, 0, 3)
    return Buffer.concat([head, data])
  }

  hello(frame) {
    const { clientHello } = proto.HandshakeMessage.decode(frame)
    this.mix(clientHello.ephemeral)
    this.ephemeral = Curve.generateKeyPair()
    const fixed = Curve.generateKeyPair()
    this.mix(this.ephemeral.public)
    this.mixKey(Curve.sharedKey(this.ephemeral.private, clientHello.ephemeral))
    const sealed = this.encrypt(fixed.public)
    this.mixKey(Curve.sharedKey(fixed.private, clientHello.ephemeral))
    const payload = this.encrypt(certificate(this.root, fixed.public))
    const serverHello = { ephemeral: this.ephemeral.public, static: sealed, payload }
    return this.frame(Buffer.from(proto.HandshakeMessage.encode({ serverHello }).finish()))
  }

  // Ends the handshake; what the client says of itself.
  finish(frame) {
    const { clientFinish } = proto.HandshakeMessage.decode(frame)
    const key = this.decrypt(Buffer.from(clientFinish.static))
    this.mixKey(Curve.sharedKey(this.ephemeral.private, key))
    const payload = proto.ClientPayload.decode(this.decrypt(Buffer.from(clientFinish.payload)))
    const out = Buffer.from(hkdf(NOTHING, 64, { salt: this.salt, info: '' }))
    this.receiving = { key: out.subarray(0, 32), counter: 0 }
    this.sending = { key: out.subarray(32), counter: 0 }
    return payload
  }

  encodeNode(node) {
    return this.frame(seal(encodeBinaryNode(node), this.sending.key, this.sending.counter++, NOTHING))
  }

  decodeNode(frame) {
    return decodeBinaryNode(open(frame, this.receiving.key, this.receiving.counter++, NOTHING))
  }
}
