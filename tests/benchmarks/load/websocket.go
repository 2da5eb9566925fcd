package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
)

const upgrade = "GET %s HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
	"User-Agent: load\r\nx-pyrycode-server: %s\r\n%s: load\r\n\r\n"

// conn is the client's end of a WebSocket, with just what this load needs. Its frames are masked with
// a fresh key each, unless it is plain: that is for forwarders, which have no client and no server.
type conn struct {
	net.Conn
	in    *bufio.Reader
	plain bool
	write sync.Mutex
}

func newConn(c net.Conn, buffer int) *conn {
	return &conn{Conn: c, in: bufio.NewReaderSize(c, buffer)}
}

// dial opens a WebSocket; a message must fit into buffer.
func dial(target, path, server, header string, buffer int) (*conn, error) {
	raw, err := net.DialTimeout("tcp", target, 20*time.Second)
	if err != nil {
		return nil, err
	}
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	if *ca != "" {
		secured, err := secure(raw, path == "/v1/client")
		if err != nil {
			raw.Close()
			return nil, err
		}
		raw = secured
	}
	c := newConn(raw, buffer)
	if _, err = fmt.Fprintf(c, upgrade, path, server, header); err == nil {
		err = c.upgraded()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

func (c *conn) upgraded() error {
	status, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return fmt.Errorf("upgrade refused: %q", status)
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil || line == "\r\n" {
			return err
		}
	}
}

// appendFrame adds a frame whose payload is the parts, one after another.
func (c *conn) appendFrame(to []byte, opcode byte, parts ...[]byte) []byte {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	mask := byte(0x80)
	if c.plain {
		mask = 0
	}
	switch {
	case size < 126:
		to = append(to, 0x80|opcode, mask|byte(size))
	case size < 65536:
		to = binary.BigEndian.AppendUint16(append(to, 0x80|opcode, mask|126), uint16(size))
	default:
		to = binary.BigEndian.AppendUint64(append(to, 0x80|opcode, mask|127), uint64(size))
	}
	var key uint32
	if !c.plain {
		key = rand.Uint32()
		to = binary.LittleEndian.AppendUint32(to, key)
	}
	start := len(to)
	for _, part := range parts {
		to = append(to, part...)
	}
	if !c.plain {
		xor(to[start:], key)
	}
	return to
}

func xor(data []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(data) >= 8 {
		binary.LittleEndian.PutUint64(data, binary.LittleEndian.Uint64(data)^wide)
		data = data[8:]
	}
	for i := range data {
		data[i] ^= byte(key >> (8 * (i & 3)))
	}
}

// send writes whole frames.
func (c *conn) send(frames []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.Write(frames)
	return err
}

// next returns a message, which is valid until the next call. It answers pings.
func (c *conn) next() ([]byte, error) {
	for {
		head, err := c.in.Peek(2)
		if err != nil {
			return nil, err
		}
		opcode, size, header := head[0], int(head[1]), 2
		switch size {
		case 126:
			if head, err = c.in.Peek(4); err != nil {
				return nil, err
			}
			size, header = int(binary.BigEndian.Uint16(head[2:])), 4
		case 127:
			if head, err = c.in.Peek(10); err != nil {
				return nil, err
			}
			size, header = int(binary.BigEndian.Uint64(head[2:])), 10
		}
		frame, err := c.in.Peek(header + size)
		if err != nil {
			return nil, err
		}
		c.in.Discard(header + size)
		payload := frame[header:]
		switch opcode {
		case 0x81:
			return payload, nil
		case 0x88:
			return nil, fmt.Errorf("closed: %w", closed(bytes.Clone(payload)))
		case 0x89:
			if err := c.send(c.appendFrame(nil, 0xA, payload)); err != nil {
				return nil, err
			}
		case 0x8A:
		default:
			return nil, fmt.Errorf("frame that starts with %#x", opcode)
		}
	}
}

// closed is the payload of a Close frame.
type closed []byte

func (c closed) Error() string {
	if len(c) < 2 {
		return "without a code"
	}
	return fmt.Sprintf("%d %s", binary.BigEndian.Uint16(c), c[2:])
}

// lost says that the other side ended the connection, in whatever way.
func lost(err error) bool {
	var code closed
	var network net.Error
	return errors.As(err, &code) || errors.Is(err, io.EOF) || errors.As(err, &network)
}
