// WebSocket clients on Go's coder/websocket, driven by JSON lines on stdin that tell what each is to do,
// and telling in JSON lines on stdout what happens to it. tests/interop/clients.py has the other end.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
)

type command struct {
	Do, ID, URL, Text, Reason string
	Binary                    bool
	Code                      int
	Headers                   map[string]string
}

// peer is a client that tells once how it was closed.
type peer struct {
	*websocket.Conn
	id      string
	closing atomic.Bool
	read    chan struct{} // closed when reading is over
	told    sync.Once
}

func (p *peer) closed(code int, reason string) {
	p.told.Do(func() { tell(p.id, "close", map[string]any{"code": code, "reason": reason}) })
}

var (
	output  = json.NewEncoder(os.Stdout)
	mutex   sync.Mutex
	clients = map[string]*peer{}
)

func tell(id, event string, more map[string]any) {
	if more == nil {
		more = map[string]any{}
	}
	more["id"], more["event"] = id, event
	mutex.Lock()
	defer mutex.Unlock()
	output.Encode(more)
}

func connect(c command) {
	header := http.Header{}
	for name, value := range c.Headers {
		header.Set(name, value)
	}
	client, answer, err := websocket.Dial(context.Background(), c.URL, &websocket.DialOptions{
		HTTPHeader:      header,
		CompressionMode: websocket.CompressionContextTakeover,
		OnPingReceived: func(context.Context, []byte) bool {
			tell(c.ID, "ping", nil)
			return true
		},
	})
	if err != nil {
		tell(c.ID, "close", map[string]any{"code": 1006, "reason": err.Error()})
		return
	}
	client.SetReadLimit(1 << 20)
	clients[c.ID] = &peer{Conn: client, id: c.ID, read: make(chan struct{})}
	tell(c.ID, "open", map[string]any{"extensions": answer.Header.Get("Sec-WebSocket-Extensions")})
	go clients[c.ID].receive()
}

func (p *peer) receive() {
	defer close(p.read)
	for {
		kind, message, err := p.Read(context.Background())
		if err != nil {
			var closed websocket.CloseError
			if errors.As(err, &closed) {
				p.closed(int(closed.Code), closed.Reason)
			} else if !p.closing.Load() {
				p.closed(1006, "")
			}
			return
		}
		tell(p.id, "message", map[string]any{"text": string(message), "binary": kind == websocket.MessageBinary})
	}
}

// bye says goodbye. The answer to that is read by Close itself if it comes between two of our reads.
func (p *peer) bye(code int, reason string) {
	p.closing.Store(true)
	if err := p.Close(websocket.StatusCode(code), reason); err != nil {
		<-p.read
		code, reason = 1006, err.Error()
	}
	p.closed(code, reason)
}

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 4<<20)
	for input.Scan() {
		var c command
		if err := json.Unmarshal(input.Bytes(), &c); err != nil {
			panic(err)
		}
		client := clients[c.ID]
		switch c.Do {
		case "connect":
			connect(c)
		case "send":
			kind := websocket.MessageText
			if c.Binary {
				kind = websocket.MessageBinary
			}
			client.Write(context.Background(), kind, []byte(c.Text))
		case "ping":
			go func() {
				if client.Ping(context.Background()) == nil {
					tell(c.ID, "pong", nil)
				}
			}()
		case "close":
			go client.bye(c.Code, c.Reason)
		}
	}
}
