// A service behind keyfunc with its defaults: PORT, ISSUER and AUDIENCE are in the environment.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

func main() {
	issuer, audience := os.Getenv("ISSUER"), os.Getenv("AUDIENCE")
	keys, err := keyfunc.NewDefault([]string{issuer + "/.well-known/jwks.json"})
	if err != nil {
		log.Fatal(err)
	}
	parser := jwt.NewParser(
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithValidMethods([]string{"RS256", "ES256"}),
		jwt.WithExpirationRequired(),
	)
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		text := strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")
		token, err := parser.Parse(text, keys.Keyfunc)
		if err == nil && token.Header["typ"] != "at+jwt" {
			err = fmt.Errorf("this is no access token")
		}
		if err != nil {
			answer.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(answer, err.Error(), http.StatusUnauthorized)
			return
		}
		subject, _ := token.Claims.GetSubject()
		fmt.Fprintf(answer, "hello %s\n", subject)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
