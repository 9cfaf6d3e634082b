//go:build !cgo

// Command rdkafkabench needs cgo.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "rdkafkabench: SKIPPED: built without cgo")
	os.Exit(1)
}
