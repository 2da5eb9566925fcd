package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"
)

var (
	before = []byte(`{"conn_id":"`)
	middle = []byte(`","frame":`)
	after  = []byte(`}`)
)

// flow is what goes one way between a phone and its binary: numbered messages, made anew on both
// sides and compared byte for byte.
type flow struct {
	id      string // the relay's name for the phone
	size    int
	filling []byte
	sent    int          // the sender's own
	got     atomic.Int64 // messages that have arrived, all of them right and in order
	stride  int64        // arrivals from one wake of the sender to the next: half a window, at least one
	message []byte       // the sender's room for one
	wanted  []byte       // the receiver's
}

const turns = 40 // places in the filling where a message's can begin

func newFlow(phone, size int, seed uint64) *flow {
	random := rand.New(rand.NewPCG(seed, uint64(phone)))
	f := &flow{size: size, filling: make([]byte, size+turns)}
	for i := range f.filling {
		f.filling[i] = "abcdefghijklmnopqrstuvwxyz234567"[random.IntN(32)]
	}
	f.message, f.wanted = make([]byte, 0, size), make([]byte, 0, size)
	return f
}

// appendMessage adds message number n, a JSON string: the number, then the filling, shifted by it.
func (f *flow) appendMessage(to []byte, n int) []byte {
	var digits [11]byte
	digits[0] = '"'
	for i := len(digits) - 1; i > 0; i-- {
		digits[i] = '0' + byte(n%10)
		n /= 10
	}
	to = append(to, digits[:]...)
	shift := int(digits[10]-'0') + 10*int(digits[9]&3)
	to = append(to, f.filling[shift:shift+f.size-len(digits)-1]...)
	return append(to, '"')
}

// arrived checks the next message.
func (f *flow) arrived(message []byte) error {
	n := f.got.Load()
	f.wanted = f.appendMessage(f.wanted[:0], int(n))
	if !bytes.Equal(message, f.wanted) {
		return fmt.Errorf("message %d of %s: got %d bytes %.40q, want %d bytes %.40q",
			n, f.id, len(message), message, len(f.wanted), f.wanted)
	}
	f.got.Add(1)
	return nil
}

// leg is one connection and the phones that it carries: all of a room if it is the binary's.
type leg struct {
	*conn
	phones  []*phone
	byID    map[string]*phone
	wrapped bool
}

type phone struct {
	leg      *leg
	up, down *flow
}

// room is a binary and its phones; or, where a forwarder pairs connections, a binary's leg for each.
type room struct {
	binary []*leg
	phones []*leg
}

func (r *room) close() {
	for _, l := range append(r.binary, r.phones...) {
		l.Close()
	}
}

// add appends the frame with the next message of flow f.
func (l *leg) add(to []byte, f *flow) []byte {
	f.message = f.appendMessage(f.message[:0], f.sent)
	f.sent++
	if l.wrapped {
		return l.appendFrame(to, 1, before, []byte(f.id), middle, f.message, after)
	}
	return l.appendFrame(to, 1, f.message)
}

// receive returns the next message and whose it is.
func (l *leg) receive() (*phone, []byte, error) {
	message, err := l.next()
	if err != nil || !l.wrapped {
		return l.phones[0], message, err
	}
	id, frame, err := unwrap(message)
	if err != nil {
		return nil, nil, err
	}
	p := l.byID[string(id)]
	if p == nil {
		return nil, nil, fmt.Errorf("frame of an unknown phone: %.60q", message)
	}
	return p, frame, nil
}

func unwrap(message []byte) (id, frame []byte, err error) {
	rest, found := bytes.CutPrefix(message, before)
	id, rest, named := bytes.Cut(rest, middle)
	frame, whole := bytes.CutSuffix(rest, after)
	if !found || !named || !whole {
		return nil, nil, fmt.Errorf("not an envelope: %.60q", message)
	}
	return id, frame, nil
}

var hello = []byte(`"hello"`)

// open builds a room of count phones through a relay. size(i) is the size of phone i's messages.
func open(target, server string, count int, size func(int) int, buffer int, seed uint64) (*room, error) {
	c, err := dial(target, "/v1/server", server, "x-pyrycode-version", buffer)
	if err != nil {
		return nil, err
	}
	time.Sleep(10 * time.Millisecond) // its claim may come just after its 101
	b := &leg{conn: c, byID: map[string]*phone{}, wrapped: true}
	r := &room{binary: []*leg{b}}
	for i := range count {
		c, id, err := b.admit(target, server, buffer)
		if err != nil {
			return nil, err
		}
		l := &leg{conn: c}
		p := &phone{l, newFlow(2*i, size(i), seed), newFlow(2*i+1, size(i), seed)}
		l.phones, b.phones = []*phone{p}, append(b.phones, p)
		r.phones = append(r.phones, l)
		p.up.id, p.down.id = id, id
		b.byID[id] = p
	}
	return r, nil
}

// admit connects a phone and learns the relay's name for it. If the binary's claim is later still, the
// phone is refused, its hello never arrives, and it dials again.
func (l *leg) admit(target, server string, buffer int) (*conn, string, error) {
	defer l.SetReadDeadline(time.Time{})
	for attempt := 0; ; attempt++ {
		c, err := dial(target, "/v1/client", server, "x-pyrycode-token", buffer)
		if err != nil {
			return nil, "", err
		}
		if err := c.send(c.appendFrame(nil, 1, hello)); err != nil {
			return nil, "", err
		}
		l.SetReadDeadline(time.Now().Add(2 * time.Second))
		message, err := l.next()
		if errors.Is(err, os.ErrDeadlineExceeded) && attempt < 5 {
			c.Close()
			continue
		}
		if err != nil {
			return nil, "", err
		}
		id, frame, err := unwrap(message)
		if err == nil && !bytes.Equal(frame, hello) {
			err = fmt.Errorf("not a hello: %.60q", frame)
		}
		return c, string(id), err
	}
}

// openPlain builds a room through a forwarder, which dials us at backend for each phone that dials it.
func openPlain(target, backend string, count, size, buffer int, seed uint64) (*room, error) {
	listener, err := net.Listen("tcp", backend)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	r := &room{}
	for i := range count {
		near, err := net.Dial("tcp", target)
		if err != nil {
			return nil, err
		}
		// A forwarder may wait for the first byte before it dials on.
		if err := binary.Write(near, binary.BigEndian, uint32(i)); err != nil {
			return nil, err
		}
		listener.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		far, err := listener.Accept()
		if err != nil {
			return nil, err
		}
		var number uint32
		if err := binary.Read(far, binary.BigEndian, &number); err != nil || number != uint32(i) {
			return nil, errors.Join(err, fmt.Errorf("connection %d came as %d", i, number))
		}
		l, b := &leg{conn: newConn(near, buffer)}, &leg{conn: newConn(far, buffer)}
		l.plain, b.plain = true, true
		p := &phone{l, newFlow(2*i, size, seed), newFlow(2*i+1, size, seed)}
		l.phones, b.phones = []*phone{p}, []*phone{p}
		r.phones, r.binary = append(r.phones, l), append(r.binary, b)
	}
	return r, nil
}
