package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// installTimeout is how long fetching a client may take before it counts as not to be had. Without a network the
// installers give up much sooner: they are told not to try again.
const installTimeout = 2 * time.Minute

// notToBeHad remembers what could not be installed, so that the next test does not wait for it again.
var notToBeHad sync.Map

// cache is a directory that survives the run; install fills it once.
func cache(t testing.TB, name string, install func(dir string) error) string {
	t.Helper()
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "millrace-compat", name)
	done := filepath.Join(dir, ".installed")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	if why, ok := notToBeHad.Load(name); ok {
		t.Skipf("SKIPPED: %s cannot be installed: %v", name, why)
	}
	if err := os.RemoveAll(dir); err != nil { // of an install that was cut off
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := install(dir); err != nil {
		notToBeHad.Store(name, err)
		t.Skipf("SKIPPED: %s cannot be installed: %v", name, err)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// need skips the test when a program is not there.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED: %s is not installed", p)
		}
	}
}

// python makes a virtual environment with packages and returns its interpreter.
func python(t testing.TB, packages ...string) string {
	t.Helper()
	need(t, "python3")
	dir := cache(t, "python", func(dir string) error {
		if out, err := Try(t.Context(), installTimeout, nil, dir, "python3", "-m", "venv", "venv"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		out, err := Try(t.Context(), installTimeout, nil, dir, filepath.Join(dir, "venv/bin/pip"), append([]string{"install", "--quiet", "--retries", "0", "--timeout", "10", "--disable-pip-version-check"}, packages...)...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, tail([]byte(out), 500))
		}
		return nil
	})
	return filepath.Join(dir, "venv/bin/python")
}

// kafkaVersion is the Apache Kafka whose Java client and tools are used.
const kafkaVersion = "4.3.1"

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>millrace</groupId><artifactId>compat</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + kafkaVersion + `</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>` + kafkaVersion + `</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
</dependencies></project>
`

const log4j = `Configuration:
  Appenders: {Console: {name: ERR, target: SYSTEM_ERR, PatternLayout: {pattern: "[%d] %p %m (%c)%n"}}}
  Loggers: {Root: {level: ERROR, AppenderRef: [{ref: ERR}]}}
`

// java fetches Kafka's jars and returns the arguments that every program of Kafka's needs.
func java(t testing.TB) []string {
	t.Helper()
	need(t, "java", "javac", "mvn")
	dir := cache(t, "kafka-"+kafkaVersion, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "log4j2.yaml"), []byte(log4j), 0o644); err != nil {
			return err
		}
		out, err := Try(t.Context(), installTimeout, nil, dir, "mvn", "-q", "-B", "-Dmaven.wagon.http.retryHandler.count=0", "-Daether.connector.connectTimeout=5000",
			"dependency:copy-dependencies", "-DoutputDirectory=libs")
		if err != nil {
			return fmt.Errorf("%w: %s", err, tail([]byte(out), 500))
		}
		return nil
	})
	return []string{
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile=" + filepath.Join(dir, "log4j2.yaml"),
		"-cp", filepath.Join(dir, "libs") + "/*",
	}
}
