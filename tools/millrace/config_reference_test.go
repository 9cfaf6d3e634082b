package main

import (
	"bytes"
	"os"
	"testing"

	"millrace/broker/config"
)

func TestConfigurationReferenceIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := config.WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../broker/config/REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("broker/config/REFERENCE.md is not what the tables say: run `make docs` and commit it")
	}
}
