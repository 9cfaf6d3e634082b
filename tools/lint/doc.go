// Package lint holds the rules about the tree that no compiler checks: who may import whom, and what a
// file may not contain. They are ordinary tests, so `go test ./...` is the gate.
package lint
