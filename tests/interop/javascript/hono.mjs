import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { jwk } from 'hono/jwk'

const { ISSUER, AUDIENCE, PORT } = process.env

const app = new Hono()
app.use(
  jwk({
    jwks_uri: `${ISSUER}/.well-known/jwks.json`,
    alg: ['RS256', 'ES256'],
    // Without `typ`, hono accepts tokens of the type JWT and no others.
    verification: { iss: ISSUER, aud: AUDIENCE, typ: 'at+jwt' },
  }),
)
app.get('/', (c) => c.text(`hello ${c.get('jwtPayload').sub}`))
serve({ fetch: app.fetch, hostname: '127.0.0.1', port: Number(PORT) })
