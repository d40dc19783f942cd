// A service that verifies every token it is handed at once, and again and again until it expires.
//
//	verifier ISSUER AUDIENCE KEY_SET_URL
//
// Standard input: a line {"token"} each. Standard output: a line {"event":"refusal",...} each, and {"event":"summary",...}
// when the input has ended and the last token has expired.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

const (
	// Between two looks at the same token.
	pass = 2 * time.Second
	// Before its expiry, from when a token is left alone, so that a slow machine makes no refusal.
	margin = time.Second
)

type entry struct {
	token   string
	refused bool
	Kid     string `json:"kid"`
	Alg     string `json:"alg"`
	Iat     int64  `json:"iat"`
	Exp     int64  `json:"exp"`
}

type refusal struct {
	Event string  `json:"event"`
	Kid   string  `json:"kid"`
	Alg   string  `json:"alg"`
	Age   float64 `json:"age"`
	LagMs int64   `json:"lag_ms"`
	Error string  `json:"error"`
}

type summary struct {
	Event         string `json:"event"`
	Version       string `json:"version"`
	Tokens        int    `json:"tokens"`
	RefusedTokens int    `json:"refused_tokens"`
	Verifications int    `json:"verifications"`
	Refusals      int    `json:"refusals"`
	Late          int    `json:"late"`
	MaxLagMs      int64  `json:"max_lag_ms"`
}

type service struct {
	verifier verifier
	live     []*entry
	lag      time.Duration
	summary  summary
}

func (s *service) take(token string) {
	e := read(token)
	s.summary.Tokens++
	s.live = append(s.live, e)
	s.check(e)
}

func (s *service) check(e *entry) {
	if !e.isLive() {
		return
	}
	age := time.Since(time.Unix(e.Iat, 0)).Seconds()
	s.summary.Verifications++
	_, err := s.verifier.verify(context.Background(), e.token)
	if err == nil {
		return
	}
	// The machine stood still for longer than the margin.
	if !time.Now().Before(time.Unix(e.Exp, 0)) {
		s.summary.Late++
		return
	}
	s.summary.Refusals++
	if !e.refused {
		s.summary.RefusedTokens++
	}
	e.refused = true
	say(refusal{"refusal", e.Kid, e.Alg, age, s.lag.Milliseconds(), err.Error()})
}

func (s *service) lookAgain(planned time.Time) {
	s.lag = max(0, time.Since(planned))
	s.summary.MaxLagMs = max(s.summary.MaxLagMs, s.lag.Milliseconds())
	var live []*entry
	for _, e := range s.live {
		if e.isLive() {
			live = append(live, e)
		}
	}
	s.live = live
	for _, e := range s.live {
		s.check(e)
	}
}

func (e *entry) isLive() bool {
	return time.Now().Before(time.Unix(e.Exp, 0).Add(-margin))
}

func read(token string) *entry {
	e := &entry{token: token}
	for _, part := range strings.SplitN(token, ".", 3)[:2] {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(text, e)
		}
		if err != nil {
			panic(err)
		}
	}
	return e
}

func say(line any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		panic(err)
	}
}

func version() string {
	build, _ := debug.ReadBuildInfo()
	for _, module := range build.Deps {
		if module.Path == "github.com/coreos/go-oidc/v3" {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	panic("the library is not in the build")
}

func readLines(lines chan<- string) {
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var line struct{ Token string }
		if err := json.Unmarshal(input.Bytes(), &line); err != nil {
			panic(err)
		}
		lines <- line.Token
	}
	close(lines)
}

func main() {
	s := &service{
		verifier: newVerifier(os.Args[1], os.Args[2], os.Args[3]),
		summary:  summary{Event: "summary", Version: version()},
	}
	lines := make(chan string)
	go readLines(lines)
	planned := time.Now()
	for lines != nil || len(s.live) > 0 {
		select {
		case token, more := <-lines:
			if more {
				s.take(token)
			} else {
				lines = nil
			}
		case <-time.After(time.Until(planned)):
		}
		// New tokens may keep coming; the old ones have their turn all the same.
		if !time.Now().Before(planned) {
			s.lookAgain(planned)
			planned = planned.Add(pass)
			if planned.Before(time.Now()) {
				planned = time.Now()
			}
		}
	}
	say(s.summary)
}
