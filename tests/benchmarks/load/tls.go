package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
)

var (
	ca     = flag.String("ca", "", "speak TLS, and trust this certificate alone (a file, PEM)")
	name   = flag.String("name", "", "whom the relay's certificate is to be for")
	resume = flag.Bool("resume", false, "phones begin with a ticket, which the binaries before them have got")
)

// What every relay is to speak, lest one be measured with less to do: the load fails with any other. Go lets
// nobody choose a suite of TLS 1.3; this is the one that a client prefers whose processor does AES by itself.
const (
	version = tls.VersionTLS13
	suite   = tls.TLS_AES_128_GCM_SHA256
)

var config = sync.OnceValues(func() (*tls.Config, error) {
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + *ca)
	}
	// OpenSSL learned ML-KEM only in 3.5, so nobody is to use it.
	made := &tls.Config{RootCAs: roots, ServerName: *name, MinVersion: version, NextProtos: []string{"http/1.1"},
		CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: forgetful{}}
	if *resume {
		made.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return made, nil
})

// forgetful has relays make tickets, as they do for everybody, and never uses one.
type forgetful struct{}

func (forgetful) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (forgetful) Put(string, *tls.ClientSessionState)        {}

// secure does the client's part of a handshake.
func secure(raw net.Conn, phone bool) (net.Conn, error) {
	config, err := config()
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	if state.Version != version || state.CipherSuite != suite || phone && state.DidResume != *resume {
		fail(fmt.Errorf("the relay spoke %s with %s, resumed: %t", tls.VersionName(state.Version),
			tls.CipherSuiteName(state.CipherSuite), state.DidResume))
	}
	return conn, nil
}
