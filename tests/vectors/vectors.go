// Package vectors names the public test vectors that Keyround's tests read; go.sum holds their hash.
package vectors
