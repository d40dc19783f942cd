package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Make one of these and keep it: it holds the key set, and fetches it again when it meets a new key.
type verifier struct{ tokens *oidc.IDTokenVerifier }

func newVerifier(issuer, audience, keySet string) verifier {
	keys := oidc.NewRemoteKeySet(context.Background(), keySet)
	return verifier{oidc.NewVerifier(issuer, keys, &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256},
	})}
}

// The token's claims are those of the answer, and more by its Claims.
func (v verifier) verify(ctx context.Context, token string) (*oidc.IDToken, error) {
	verified, err := v.tokens.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	var header struct{ Typ string }
	first, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(first)
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	if err == nil && header.Typ != "at+jwt" {
		err = errors.New("this is no access token")
	}
	return verified, err
}
