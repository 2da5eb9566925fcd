package main

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

const crowdBuffer = 1 << 10

// crowd is many phones that say hello, hear it back from their binary, and then only answer pings.
type crowd struct {
	kind    string
	count   int
	here    atomic.Int64 // phones that have heard their hello and are connected
	redials atomic.Int64
	mu      sync.Mutex
	conns   []*conn
	claimed bool
	dropped *atomic.Bool // of those now connected
}

func newCrowd(kind string, count int) *crowd {
	return &crowd{kind: kind, count: count, dropped: new(atomic.Bool)}
}

func (c *crowd) servers() int { return (c.count + perServer - 1) / perServer }

// each calls do for 0 to count-1, at most parallel at a time, until all are done or have given up.
func each(count, parallel int, do func(int) error) error {
	free := make(chan struct{}, parallel)
	results := make(chan error, count)
	for i := range count {
		free <- struct{}{}
		go func() {
			results <- do(i)
			<-free
		}()
	}
	for range count {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}

// dial keeps trying: a relay may refuse while it has not yet seen who is gone.
func (c *crowd) dial(path string, i int, header string, ready func(*conn) error) error {
	for deadline := time.Now().Add(patience); ; {
		conn, err := dial(*target, path, serverID(c.kind, i), header, crowdBuffer)
		if err == nil {
			if err = ready(conn); err == nil {
				c.mu.Lock()
				c.conns = append(c.conns, conn)
				c.mu.Unlock()
				return nil
			}
			conn.Close()
		}
		if !lost(err) || time.Now().After(deadline) {
			return err
		}
		c.redials.Add(1)
		time.Sleep(10 * time.Millisecond)
	}
}

// binary connects the binary of server i, which sends every frame back.
func (c *crowd) binary(i int) error {
	dropped := c.dropped
	return c.dial("/v1/server", i, "x-pyrycode-version", func(conn *conn) error {
		go func() {
			for {
				message, err := conn.next()
				if err != nil {
					// Refused because the old one is not yet gone, or dropped by us; anything else shows
					// in the phones, which hear nothing.
					conn.Close()
					if !dropped.Load() && lost(err) {
						c.redials.Add(1)
						time.Sleep(10 * time.Millisecond)
						c.binary(i)
					}
					return
				}
				if _, _, err := unwrap(message); err != nil {
					// A close notice of a phone that redials has no frame.
					continue
				}
				conn.send(conn.appendFrame(nil, 1, message))
			}
		}()
		return nil
	})
}

func (c *crowd) phone(i int) error {
	return c.dial("/v1/client", i/perServer, "x-pyrycode-token", func(conn *conn) error {
		conn.SetDeadline(time.Now().Add(patience))
		if err := conn.send(conn.appendFrame(nil, 1, hello)); err != nil {
			return err
		}
		message, err := conn.next()
		if err != nil {
			return err
		}
		if !bytes.Equal(message, hello) {
			fail(&mixedUp{message})
		}
		conn.SetDeadline(time.Time{})
		c.here.Add(1)
		go func() {
			conn.next()
			c.here.Add(-1)
		}()
		return nil
	})
}

type mixedUp struct{ message []byte }

func (m *mixedUp) Error() string {
	return "not a hello: " + string(m.message[:min(60, len(m.message))])
}

func (c *crowd) binaries() error {
	c.claimed = true
	return each(c.servers(), 64, c.binary)
}

// join connects everyone, parallel dials at a time, and returns how long it took.
func (c *crowd) join(parallel int) (time.Duration, error) {
	began := time.Now()
	failed := make(chan error, 1)
	if !c.claimed && parallel < c.count {
		if err := c.binaries(); err != nil {
			return 0, err
		}
	} else if !c.claimed {
		// At once: phones may well come before their binary, and are told to dial again.
		go func() { failed <- each(c.servers(), parallel, c.binary) }()
	}
	if c.claimed {
		failed <- nil
	}
	err := each(c.count, parallel, c.phone)
	took := time.Since(began)
	if err == nil {
		err = <-failed
	}
	return took, err
}

// drop closes every connection without a word, as a network that goes away does.
func (c *crowd) drop() {
	c.dropped.Store(true)
	c.dropped, c.claimed = new(atomic.Bool), false
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
	for c.here.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}
