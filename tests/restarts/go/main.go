// Restarts plays many binaries and phones that dial again whenever they are closed, with the usual
// backoff, and tells how long it takes until all of them are back.
//
// It reads lines from stdin: each is a restart that begins now. It prints one JSON line when everyone is
// connected for the first time, and one after each restart, when everyone has come back.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

var (
	target      = flag.String("url", "", "the relay, such as ws://127.0.0.1:8080")
	binaries    = flag.Int("binaries", 200, "server-ids")
	phonesPerID = flag.Int("phones", 10, "phones of each server-id")
	base        = flag.Duration("base", time.Second, "longest first wait before dialling again; doubled each time")
	limit       = flag.Duration("cap", 30*time.Second, "longest wait before dialling again")
	patience    = flag.Duration("patience", 2*time.Minute, "give up when not everyone is back by then")
)

// peer is a binary or a phone, over all its connections.
type peer struct {
	role   string
	server string
	round  int // the last restart after which it was back
}

// round is what has happened since a restart, or since the start.
type round struct {
	sync.Mutex
	number  int
	began   time.Time
	back    map[string][]time.Duration
	missing int
	dials   int
	counts  map[string]int // of what went wrong, by its name
	longest int            // most dials that a peer needed
	done    chan struct{}
}

var now = &round{}

func (r *round) begin(everyone int) {
	r.Lock()
	defer r.Unlock()
	r.number++
	r.began = time.Now()
	r.back = map[string][]time.Duration{}
	r.missing = everyone
	r.dials, r.longest = 0, 0
	r.counts = map[string]int{}
	r.done = make(chan struct{})
}

func (r *round) arrived(p *peer, dials int) {
	r.Lock()
	defer r.Unlock()
	if p.round == r.number {
		return
	}
	p.round = r.number
	r.back[p.role] = append(r.back[p.role], time.Since(r.began))
	r.longest = max(r.longest, dials)
	if r.missing--; r.missing == 0 {
		close(r.done)
	}
}

func (r *round) dialled() {
	r.Lock()
	defer r.Unlock()
	r.dials++
}

func (r *round) count(what string) {
	r.Lock()
	defer r.Unlock()
	r.counts[what]++
}

func (r *round) report() map[string]any {
	r.Lock()
	defer r.Unlock()
	report := map[string]any{"missing": r.missing, "dials": r.dials, "longest": r.longest, "counts": r.counts}
	for role, took := range r.back {
		slices.Sort(took)
		at := func(share float64) float64 { return took[int(share*float64(len(took)-1))].Seconds() }
		report[role] = map[string]any{"count": len(took), "median": at(0.5), "p90": at(0.9), "last": at(1)}
	}
	return report
}

// live connects for ever.
func (p *peer) live() {
	for failures := 0; ; failures++ {
		if failures > 0 {
			// Full jitter: anything from nothing to the longest wait.
			time.Sleep(rand.N(min(*base<<min(failures-1, 20), *limit)))
		}
		now.dialled()
		if p.connect(failures + 1) {
			failures = 0
		}
	}
}

// connect dials, stays as long as it may, and says whether it had arrived.
func (p *peer) connect(dials int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	path, header := "/v1/client", "x-pyrycode-token"
	if p.role == "binary" {
		path, header = "/v1/server", "x-pyrycode-version"
	}
	headers := http.Header{"X-Pyrycode-Server": {p.server}, "User-Agent": {"restarts"}}
	headers.Set(header, "1")
	conn, answer, err := websocket.Dial(ctx, *target+path, &websocket.DialOptions{HTTPHeader: headers})
	if err != nil {
		now.count(dialError(answer, err))
		return false
	}
	defer conn.CloseNow()
	if p.role == "phone" {
		hello := []byte(fmt.Sprintf("%d", rand.Int64()))
		if err = conn.Write(ctx, websocket.MessageText, hello); err == nil {
			var echo []byte
			if _, echo, err = conn.Read(ctx); err == nil && string(echo) != string(hello) {
				fail(fmt.Errorf("a phone said %q and heard %q", hello, echo))
			}
		}
		if err != nil {
			now.count(closeError(err))
			return false
		}
	}
	now.arrived(p, dials)
	for {
		_, message, err := conn.Read(context.Background())
		if err != nil {
			now.count(closeError(err))
			return true
		}
		// A binary sends every frame back where it came from; notices have none.
		if p.role == "binary" && strings.Contains(string(message), `"frame"`) {
			conn.Write(context.Background(), websocket.MessageText, message)
		}
	}
}

func dialError(answer *http.Response, err error) string {
	switch {
	case answer != nil && answer.StatusCode != http.StatusSwitchingProtocols:
		return fmt.Sprintf("dial answered %d", answer.StatusCode)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "dial refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "dial reset"
	case errors.Is(err, context.DeadlineExceeded):
		return "dial timed out"
	default:
		return "dial failed"
	}
}

func closeError(err error) string {
	if code := websocket.CloseStatus(err); code != -1 {
		return fmt.Sprintf("closed with %d", code)
	}
	return "cut off"
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "restarts:", err)
	os.Exit(1)
}

func tell(done chan struct{}) {
	select {
	case <-done:
	case <-time.After(*patience):
	}
	if err := json.NewEncoder(os.Stdout).Encode(now.report()); err != nil {
		fail(err)
	}
}

func main() {
	flag.Parse()
	everyone := *binaries * (1 + *phonesPerID)
	now.begin(everyone)
	for i := range *binaries {
		server := fmt.Sprintf("restarts-%d-%d", os.Getpid(), i)
		go (&peer{role: "binary", server: server}).live()
		for range *phonesPerID {
			go (&peer{role: "phone", server: server}).live()
		}
	}
	tell(now.done)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now.begin(everyone)
		tell(now.done)
	}
}
