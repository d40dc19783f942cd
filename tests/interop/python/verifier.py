"""A service that verifies every token it is handed at once, and again and again until it expires.

    python verifier.py ISSUER AUDIENCE KEY_SET_URL [CACHE_SECONDS]

Standard input: a line {"token"} each. Standard output: a line {"event":"refusal",...} each, and {"event":"summary",...}
when the input has ended and the last token has expired.
"""

import base64
import json
import queue
import sys
import threading
import time

import jwt
from snippet import Verifier

# Seconds between two looks at the same token.
PASS = 2
# Seconds before its expiry from which a token is left alone, so that a slow machine makes no refusal.
MARGIN = 1


class Entry:
    def __init__(self, token):
        header, payload = (decoded(part) for part in token.split(".")[:2])
        self.token, self.refused = token, False
        self.kid, self.alg = header["kid"], header["alg"]
        self.iat, self.exp = payload["iat"], payload["exp"]

    def is_live(self):
        return time.time() < self.exp - MARGIN


def decoded(part):
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def say(line):
    print(json.dumps(line), flush=True)


class Service:
    def __init__(self, issuer, audience, key_set, cache=None):
        self.verifier = Verifier(issuer, audience, key_set)
        if cache:
            self.verifier.keys = jwt.PyJWKClient(key_set, lifespan=int(cache))
        self.live = []
        self.lag = 0.0
        names = ["tokens", "refused_tokens", "verifications", "refusals", "late", "max_lag_ms"]
        self.summary = {"event": "summary", "version": jwt.__version__, **dict.fromkeys(names, 0)}

    def take(self, token):
        entry = Entry(token)
        self.summary["tokens"] += 1
        self.live.append(entry)
        self.check(entry)

    def check(self, entry):
        if not entry.is_live():
            return
        age = time.time() - entry.iat
        self.summary["verifications"] += 1
        try:
            self.verifier.verify(entry.token)
        except Exception as error:
            self.note(entry, age, error)

    def note(self, entry, age, error):
        # The machine stood still for longer than the margin.
        if time.time() >= entry.exp:
            self.summary["late"] += 1
            return
        self.summary["refusals"] += 1
        self.summary["refused_tokens"] += not entry.refused
        entry.refused = True
        why = f"{type(error).__name__}: {error}"
        lag_ms = round(self.lag * 1000)
        say({"event": "refusal", "kid": entry.kid, "alg": entry.alg, "age": age, "lag_ms": lag_ms, "error": why})

    def look_again(self, planned):
        self.lag = max(0, time.monotonic() - planned)
        self.summary["max_lag_ms"] = max(self.summary["max_lag_ms"], round(self.lag * 1000))
        self.live = [entry for entry in self.live if entry.is_live()]
        for entry in self.live:
            self.check(entry)


def read_lines(lines):
    for line in sys.stdin:
        lines.put(json.loads(line)["token"])
    lines.put(None)


def main():
    service = Service(*sys.argv[1:5])
    lines = queue.Queue()
    threading.Thread(target=read_lines, args=(lines,), daemon=True).start()
    ended, planned = False, time.monotonic()
    while not (ended and not service.live):
        try:
            token = lines.get(timeout=max(0.001, planned - time.monotonic()))
            ended = token is None
            if token is not None:
                service.take(token)
        except queue.Empty:
            pass
        # New tokens may keep coming; the old ones have their turn all the same.
        if time.monotonic() >= planned:
            service.look_again(planned)
            planned = max(planned + PASS, time.monotonic())
    say(service.summary)


main()
