package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// TLSFiles names the PEM files of a node for mutual TLS on the cluster port. The CA should sign nodes of this cluster
// and nothing else: whoever holds a certificate of it is a node.
type TLSFiles struct {
	CertFile, KeyFile, CAFile string
	// VerifyNames also compares the certificate's names with the address dialed.
	VerifyNames bool
}

// TLS is mutual TLS that is read anew when its files change.
type TLS struct {
	files TLSFiles
	mu    sync.Mutex
	mtime [3]time.Time
	cert  *tls.Certificate
	roots *x509.CertPool
}

// ErrTLSFiles is wrapped by everything that is wrong with the files.
var ErrTLSFiles = errors.New("cluster TLS")

// LoadTLS reads and checks the files.
func LoadTLS(f TLSFiles) (*TLS, error) {
	t := &TLS{files: f}
	for _, n := range []struct{ what, name string }{{"certificate", f.CertFile}, {"key", f.KeyFile}, {"CA", f.CAFile}} {
		if n.name == "" {
			return nil, fmt.Errorf("%w: no %s file is given (certificate, key and CA belong together)", ErrTLSFiles, n.what)
		}
	}
	if err := t.load(); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *TLS) load() error {
	var stamps [3]time.Time
	for i, name := range []string{t.files.CertFile, t.files.KeyFile, t.files.CAFile} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTLSFiles, err)
		}
		stamps[i] = info.ModTime()
	}
	if t.cert != nil && stamps == t.mtime {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(t.files.CertFile, t.files.KeyFile)
	if err != nil {
		return fmt.Errorf("%w: certificate %s with key %s: %w", ErrTLSFiles, t.files.CertFile, t.files.KeyFile, err)
	}
	pem, err := os.ReadFile(t.files.CAFile)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTLSFiles, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%w: %s holds no certificate", ErrTLSFiles, t.files.CAFile)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrTLSFiles, t.files.CertFile, err)
	}
	if err := verifyChain(roots, []*x509.Certificate{leaf}, ""); err != nil {
		return fmt.Errorf("%w: our own certificate %s is not one of the CA in %s: %w", ErrTLSFiles, t.files.CertFile, t.files.CAFile, err)
	}
	t.cert, t.roots, t.mtime = &cert, roots, stamps
	return nil
}

// current re-reads changed files; half-written ones leave what was good.
func (t *TLS) current() (*tls.Certificate, *x509.CertPool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.load()
	return t.cert, t.roots
}

func (t *TLS) server() *tls.Config {
	cert, roots := t.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, SessionTicketsDisabled: true,
	}
}

func (t *TLS) client(name string) *tls.Config {
	cert, roots := t.current()
	verify := ""
	if t.files.VerifyNames {
		verify = name
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, ServerName: name,
		// The chain is verified below. Names are not, unless asked for: the handshake that follows says which node it is.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			return verifyChain(roots, s.PeerCertificates, verify)
		},
	}
}

func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, name string) error {
	if len(chain) == 0 {
		return errors.New("no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// explainTLS turns what crypto/tls says about a plain peer into what an operator can act on.
func explainTLS(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return fmt.Errorf("transport: the peer does not speak TLS, this cluster port does (set the TLS options on both): %w", err)
	}
	return fmt.Errorf("transport: TLS: %w", err)
}
