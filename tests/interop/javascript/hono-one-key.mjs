// hono's `jwt` with one key of the set, for one request: prints its status.

import { Hono } from 'hono'
import { jwt } from 'hono/jwt'

const { token, key, verification, ahead } = JSON.parse(process.argv[2])
const now = Date.now
Date.now = () => now() + ahead * 1000

const app = new Hono()
app.use(jwt({ secret: key, alg: key.alg, verification }))
app.get('/', (c) => c.text(`hello ${c.get('jwtPayload').sub}`))
const answer = await app.request('/', { headers: { Authorization: `Bearer ${token}` } })
console.log(answer.status)
