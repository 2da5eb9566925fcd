// A relay in the original's shape: a registry under a lock, an envelope with a RawMessage in it, one
// outbox goroutine for each phone, one write for each frame.
//
// Arguments: ADDRESS [ADDRESS-FOR-TLS CHAIN KEY]
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	maxFrameBytes = 256 << 10
	maxPhones     = 16
	heartbeat     = 30 * time.Second
)

type envelope struct {
	ConnID string          `json:"conn_id"`
	Frame  json.RawMessage `json:"frame"`
}

type phone struct {
	id     string
	conn   *websocket.Conn
	outbox chan []byte
	gone   chan struct{}
}

type server struct {
	binary *websocket.Conn
	phones map[string]*phone
}

type registry struct {
	mu      sync.RWMutex
	servers map[string]*server
}

func (r *registry) claim(id string, conn *websocket.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.servers[id] != nil {
		return false
	}
	r.servers[id] = &server{binary: conn, phones: map[string]*phone{}}
	return true
}

func (r *registry) release(id string) {
	r.mu.Lock()
	phones := r.servers[id].phones
	delete(r.servers, id)
	r.mu.Unlock()
	for _, p := range phones {
		go p.conn.Close(4404, "binary is gone")
	}
}

func (r *registry) register(id string, p *phone) (websocket.StatusCode, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[id]
	if s == nil {
		return 4404, "no server with that id"
	}
	if len(s.phones) == maxPhones {
		return 4429, "too many phones"
	}
	s.phones[p.id] = p
	return 0, ""
}

func (r *registry) unregister(id string, p *phone) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		delete(s.phones, p.id)
	}
}

func (r *registry) phone(id, connID string) *phone {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s := r.servers[id]; s != nil {
		return s.phones[connID]
	}
	return nil
}

func (r *registry) binary(id string) *websocket.Conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s := r.servers[id]; s != nil {
		return s.binary
	}
	return nil
}

func accept(w http.ResponseWriter, req *http.Request) (*websocket.Conn, string, error) {
	conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err == nil {
		conn.SetReadLimit(maxFrameBytes)
	}
	return conn, req.Header.Get("x-pyrycode-server"), err
}

func beat(ctx context.Context, conn *websocket.Conn) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		answered, cancel := context.WithTimeout(ctx, heartbeat)
		err := conn.Ping(answered)
		cancel()
		if err != nil {
			conn.CloseNow()
			return
		}
	}
}

func (r *registry) serveBinary(w http.ResponseWriter, req *http.Request) {
	conn, id, err := accept(w, req)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	if !r.claim(id, conn) {
		conn.Close(4409, "server-id already claimed")
		return
	}
	defer r.release(id)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go beat(ctx, conn)
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return
		}
		var e envelope
		if json.Unmarshal(data, &e) != nil {
			continue
		}
		if p := r.phone(id, e.ConnID); p != nil {
			// The original closes a phone whose outbox is full. Here the binary waits, so that the
			// generator may keep as much in flight as with every other relay.
			select {
			case p.outbox <- e.Frame:
			case <-p.gone:
			}
		}
	}
}

func (r *registry) servePhone(w http.ResponseWriter, req *http.Request) {
	conn, id, err := accept(w, req)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	p := &phone{id: "c-" + rand.Text(), conn: conn, outbox: make(chan []byte, 256), gone: make(chan struct{})}
	defer close(p.gone)
	if code, reason := r.register(id, p); code != 0 {
		conn.Close(code, reason)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer r.unregister(id, p)
	go beat(ctx, conn)
	go p.drain(ctx)
	for {
		_, data, err := conn.Read(ctx)
		if err != nil || !json.Valid(data) {
			return
		}
		wrapped, err := json.Marshal(envelope{p.id, data})
		binary := r.binary(id)
		if err != nil || binary == nil || binary.Write(ctx, websocket.MessageText, wrapped) != nil {
			return
		}
	}
}

func (p *phone) drain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case frame := <-p.outbox:
			if p.conn.Write(ctx, websocket.MessageText, frame) != nil {
				return
			}
		}
	}
}

func main() {
	r := &registry{servers: map[string]*server{}}
	http.HandleFunc("/v1/server", r.serveBinary)
	http.HandleFunc("/v1/client", r.servePhone)
	if len(os.Args) > 2 {
		go func() { log.Fatal(http.ListenAndServeTLS(os.Args[2], os.Args[3], os.Args[4], nil)) }()
	}
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
