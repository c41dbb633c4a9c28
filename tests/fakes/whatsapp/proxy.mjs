// A proxy (CONNECT) that is the whole internet to whoever uses it: every name ends here, in TLS with a test's
// certificate. A websocket goes to `onSocket`; media are kept in memory.
import http from 'node:http'
import tls from 'node:tls'
import { createHash } from 'node:crypto'
import { WebSocketServer } from 'ws'

export function serve({ key, cert, onSocket, onRequest, refuses }) {
  const context = tls.createSecureContext({ key, cert })
  const files = new Map()
  const sockets = new Set()
  const websockets = new WebSocketServer({ noServer: true, maxPayload: 64 << 20 })

  const inner = http.createServer((request, response) => {
    const url = new URL(request.url, `https://${request.headers.host}`)
    const parts = []
    request.on('data', part => parts.push(part))
    request.on('end', () => {
      const body = Buffer.concat(parts)
      onRequest({ method: request.method, host: url.host, path: url.pathname, bytes: body.length })
      if (request.method === 'POST' && url.pathname.startsWith('/mms/')) {
        const path = keep(body)
        response.setHeader('Content-Type', 'application/json')
        response.end(JSON.stringify({ url: `https://${url.host}${path}`, direct_path: path, handle: 'handle' }))
      } else if (files.has(url.pathname)) {
        const data = files.get(url.pathname)
        response.setHeader('Content-Length', data.length)
        response.end(data)
      } else {
        response.statusCode = 404
        response.end()
      }
    })
  })
  inner.on('upgrade', (request, socket, head) => {
    websockets.handleUpgrade(request, socket, head, onSocket)
  })

  const outer = http.createServer((request, response) => {
    response.statusCode = 405
    response.end()
  })
  outer.on('connect', (request, socket, head) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    if (refuses()) return socket.destroy()
    socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
    if (head.length) socket.unshift(head)
    const secured = new tls.TLSSocket(socket, { isServer: true, secureContext: context })
    secured.on('error', () => {})
    inner.emit('connection', secured)
  })

  function keep(data) {
    const path = `/v/t62.7-24/${createHash('sha256').update(data).digest('hex')}.enc`
    files.set(path, data)
    return `${path}?ccb=11-4` // as the real ones do: clients add to it with `&`
  }

  return new Promise(resolve => {
    outer.listen(0, '127.0.0.1', () =>
      resolve({
        port: outer.address().port,
        keep,
        read: path => files.get(path.split('?')[0]),
        forget: path => files.delete(path.split('?')[0]),
        cut: () => sockets.forEach(socket => socket.destroy()),
      }),
    )
  })
}
