// What a phone does to link a client: after a scanned QR code, or after an eight-letter code was typed.
import { createDecipheriv, createCipheriv, createHmac, randomBytes } from 'node:crypto'
import { Curve, aesDecryptGCM, derivePairingCodeKey, hkdf, proto } from 'baileys'

const ACCOUNT_PREFIX = Buffer.from([6, 0])

// The `pair-success` stanza for a client that showed its identity key and shares a secret with the phone.
export function pairSuccess({ phone, device, identity, secret }) {
  const details = proto.ADVDeviceIdentity.encode({
    rawId: 1, timestamp: Math.floor(Date.now() / 1000), keyIndex: device,
  }).finish()
  const signature = Curve.sign(phone.identity.private, Buffer.concat([ACCOUNT_PREFIX, details, identity]))
  const signed = proto.ADVSignedDeviceIdentity.encode({
    details, accountSignatureKey: phone.identity.public, accountSignature: signature,
  }).finish()
  const hmac = createHmac('sha256', secret).update(signed).digest()
  const sealed = Buffer.from(proto.ADVSignedDeviceIdentityHMAC.encode({ details: signed, hmac }).finish())
  return {
    tag: 'pair-success',
    attrs: {},
    content: [
      { tag: 'device-identity', attrs: {}, content: sealed },
      { tag: 'device', attrs: { jid: `${phone.pn}:${device}@s.whatsapp.net`, lid: `${phone.lid}:${device}@lid` } },
      { tag: 'platform', attrs: { name: 'android' } },
    ],
  }
}

// What a QR code says: `…#ref,noise key,identity key,secret,…`, each in base64.
export function readQr(text) {
  const [ref, , identity, secret] = text.slice(text.indexOf('#') + 1).split(',')
  return { ref, identity: Buffer.from(identity, 'base64'), secret: Buffer.from(secret, 'base64') }
}

// The phone's half of linking by a typed code.
export class TypedCode {
  constructor(phone, wrapped) {
    this.phone = phone
    this.wrapped = wrapped // salt, IV and the client's key under the code
    this.ref = randomBytes(16)
    this.pair = Curve.generateKeyPair()
  }

  // The code was typed: the notification that tells the client. A wrong code shows only later.
  async hello(code) {
    const plain = code.replaceAll('-', '')
    const [salt, iv] = [this.wrapped.subarray(0, 32), this.wrapped.subarray(32, 48)]
    const opened = createDecipheriv('aes-256-ctr', await derivePairingCodeKey(plain, salt), iv)
    this.theirs = opened.update(this.wrapped.subarray(48))
    const [newSalt, newIv] = [randomBytes(32), randomBytes(16)]
    const sealed = createCipheriv('aes-256-ctr', await derivePairingCodeKey(plain, newSalt), newIv)
    const ours = Buffer.concat([newSalt, newIv, sealed.update(this.pair.public)])
    return {
      tag: 'link_code_companion_reg',
      attrs: { stage: 'primary_hello' },
      content: [
        { tag: 'link_code_pairing_wrapped_primary_ephemeral_pub', attrs: {}, content: ours },
        { tag: 'primary_identity_pub', attrs: {}, content: this.phone.identity.public },
        { tag: 'link_code_pairing_ref', attrs: {}, content: this.ref },
      ],
    }
  }

  // The client's answer: its identity key and the secret that both now share.
  finish(bundle) {
    const shared = Curve.sharedKey(this.pair.private, this.theirs)
    const info = 'link_code_pairing_key_bundle_encryption_key'
    const key = Buffer.from(hkdf(shared, 32, { salt: bundle.subarray(0, 32), info }))
    const plain = aesDecryptGCM(bundle.subarray(44), key, bundle.subarray(32, 44), Buffer.alloc(0))
    const identity = plain.subarray(0, 32)
    const agreed = Curve.sharedKey(this.phone.identity.private, identity)
    const all = Buffer.concat([shared, agreed, plain.subarray(64, 96)])
    return { identity, secret: Buffer.from(hkdf(all, 32, { info: 'adv_secret' })) }
  }
}
