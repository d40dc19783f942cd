// hono as it comes: for tokens of the type JWT.

import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { jwk } from 'hono/jwk'

const { ISSUER, AUDIENCE, PORT } = process.env

const app = new Hono()
app.use(
  jwk({
    jwks_uri: `${ISSUER}/.well-known/jwks.json`,
    alg: ['RS256', 'ES256'],
    verification: { iss: ISSUER, aud: AUDIENCE },
  }),
)
app.get('/', (c) => c.text(`hello ${c.get('jwtPayload').sub}`))
serve({ fetch: app.fetch, hostname: '127.0.0.1', port: Number(PORT) })
