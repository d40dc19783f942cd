// A service that verifies every token it is handed at once, and again and again until it expires.
//
//   node verifier.mjs LIBRARY ISSUER AUDIENCE KEY_SET_URL [CACHE_SECONDS]     LIBRARY is jose or jwks-rsa
//
// Standard input: a line {"token"} each. Standard output: a line {"event":"refusal",...} each, and {"event":"summary",...}
// when the input has ended and the last token has expired.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const SNIPPETS = { jose: './snippet.mjs', 'jwks-rsa': './jwks-rsa.mjs' }
const SNIPPETS_WITH_CACHE = { jose: './jose-cache.mjs', 'jwks-rsa': './jwks-rsa.mjs' }

// Milliseconds between two looks at the same token.
const PASS = 2000
// Seconds before its expiry from which a token is left alone, so that a slow machine makes no refusal.
const MARGIN = 1

const [library, issuer, audience, keySet, cache] = process.argv.slice(2)
const { verifier } = await import((cache ? SNIPPETS_WITH_CACHE : SNIPPETS)[library])
const manifest = new URL(`./node_modules/${library}/package.json`, import.meta.url)
const { version } = JSON.parse(readFileSync(manifest, 'utf8'))
const verify = verifier(issuer, audience, keySet, cache && Number(cache) * 1000)

const counts = { tokens: 0, refused_tokens: 0, verifications: 0, refusals: 0, late: 0, max_lag_ms: 0 }
const summary = { event: 'summary', version, ...counts }
let live = []
let ended = false
let lag = 0

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const decoded = (part) => JSON.parse(Buffer.from(part, 'base64url').toString())
const seconds = () => Date.now() / 1000

function read(token) {
  const [header, payload] = token.split('.', 2).map(decoded)
  return { token, kid: header.kid, alg: header.alg, iat: payload.iat, exp: payload.exp, refused: false }
}

async function check(entry) {
  if (seconds() >= entry.exp - MARGIN) return
  const age = seconds() - entry.iat
  summary.verifications += 1
  try {
    await verify(entry.token)
  } catch (error) {
    // The machine stood still for longer than the margin.
    if (seconds() >= entry.exp) {
      summary.late += 1
      return
    }
    summary.refusals += 1
    if (!entry.refused) summary.refused_tokens += 1
    entry.refused = true
    const { kid, alg } = entry
    say({ event: 'refusal', kid, alg, age, lag_ms: Math.round(lag), error: `${error.code ?? error.name}: ${error.message}` })
  }
}

async function pass(planned) {
  lag = Math.max(0, performance.now() - planned)
  summary.max_lag_ms = Math.max(summary.max_lag_ms, Math.round(lag))
  live = live.filter((entry) => seconds() < entry.exp - MARGIN)
  if (ended && live.length === 0) {
    say(summary)
    return
  }
  for (const entry of [...live]) await check(entry)
  const next = Math.max(planned + PASS, performance.now())
  setTimeout(() => pass(next), next - performance.now())
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const entry = read(JSON.parse(line).token)
    summary.tokens += 1
    live.push(entry)
    check(entry)
  })
  .on('close', () => {
    ended = true
  })
pass(performance.now())
