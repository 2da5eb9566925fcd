// Soak is the load of relayd's soak test: binaries and phones that talk at random, are killed at
// random and come back, and that check every byte of what reaches them.
//
// It shares no code with relayd. Whatever it finds wrong is in the JSON report that it prints last.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	maxData      = 64 * 1024
	burstFrames  = 300
	readLimit    = 1 << 20
	settleLimit  = 60 * time.Second
	calmTraffic  = 5 * time.Second
	dialTimeout  = 20 * time.Second
	directive    = 4401
	stormEvery   = 20 * time.Second
	meanLifetime = 60 * time.Second

	faultsOfAKind = 5
)

// The phases of a run, each of which leaves out something of the one before.
const (
	killing int32 = iota // traffic, and kills
	calm                 // traffic alone
	silent               // nothing is sent any more, everything is still read
	over                 // nobody dials again
)

var (
	target        = flag.String("url", "", "the relay, such as ws://127.0.0.1:8080")
	seconds       = flag.Float64("seconds", 60, "how long to kill")
	binaries      = flag.Int("binaries", 200, "server-ids")
	phonesPerID   = flag.Int("phones", 10, "phones of each server-id")
	seed          = flag.Int64("seed", 1, "seed of all that is random")
	framesASecond = flag.Float64("rate", 1500, "frames a second, both ways together")
	phase         atomic.Int32
	lastID        atomic.Int64
	dataBlock     = randomData()
	everyPhone    sync.Map // phone id -> *phone
	everyConnID   sync.Map // conn_id -> the binary that was told of it
	report        = newReport()
	framePrefix   = []byte(`{"sum":"`)
	errConnEnded  = errors.New("connection ended")
	goodbyes      = []int{1000, 3000, 4000}
)

type summary struct {
	sync.Mutex
	// Faults are told in full up to faultsOfAKind of each kind; FaultCounts has them all, by kind.
	Faults      []string         `json:"faults"`
	FaultCounts map[string]int64 `json:"fault_counts"`
	Counts      map[string]int64 `json:"counts"`
}

func newReport() *summary {
	return &summary{Faults: []string{}, FaultCounts: map[string]int64{}, Counts: map[string]int64{}}
}

func (s *summary) fault(kind string, args ...any) {
	s.Lock()
	defer s.Unlock()
	s.FaultCounts[kind]++
	if s.FaultCounts[kind] <= faultsOfAKind {
		s.Faults = append(s.Faults, fmt.Sprintf(kind, args...))
	}
}

func (s *summary) faulty() bool {
	s.Lock()
	defer s.Unlock()
	return len(s.Faults) > 0
}

func (s *summary) count(name string) { s.add(name, 1) }

func (s *summary) add(name string, n int64) {
	s.Lock()
	defer s.Unlock()
	s.Counts[name] += n
}

func randomData() []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/ {}[],:"
	block := make([]byte, 2*maxData)
	source := rand.New(rand.NewSource(1))
	for i := range block {
		block[i] = letters[source.Intn(len(letters))]
	}
	return block
}

// link is one WebSocket connection and the TCP connection under it.
type link struct {
	ws  *websocket.Conn
	raw *net.TCPConn
	// done is closed when reading has ended.
	done chan struct{}
}

func dial(path string, header http.Header) (*link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	l := &link{done: make(chan struct{})}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				l.raw = conn.(*net.TCPConn)
			}
			return conn, err
		},
	}
	ws, _, err := websocket.Dial(ctx, *target+path, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: transport},
		HTTPHeader:      header,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(readLimit)
	l.ws = ws
	return l, nil
}

// read hands every message to take until the connection ends, and returns the close code, or -1.
func (l *link) read(take func([]byte)) int {
	defer close(l.done)
	defer l.ws.CloseNow()
	for {
		kind, message, err := l.ws.Read(context.Background())
		if err != nil {
			return int(websocket.CloseStatus(err))
		}
		if kind != websocket.MessageText {
			report.fault("the relay sent a message that is not text")
		}
		take(message)
	}
}

func (l *link) write(message []byte) error {
	select {
	case <-l.done:
		return errConnEnded
	default:
		return l.ws.Write(context.Background(), websocket.MessageText, message)
	}
}

// pause waits for about mean, or until the connection ends or everything falls silent.
func (l *link) pause(random *rand.Rand, mean time.Duration) bool {
	wait := time.Duration(math.Min(random.ExpFloat64(), 5) * float64(mean))
	select {
	case <-l.done:
		return false
	case <-time.After(wait):
		return phase.Load() < silent
	}
}

// kill ends the connection in one of the ways in which connections end.
func (l *link) kill(random *rand.Rand, announce func(code int)) {
	switch random.Intn(4) {
	case 0:
		report.count("kills by RST")
		l.raw.SetLinger(0)
		l.raw.Close()
	case 1:
		report.count("kills by FIN")
		l.raw.Close()
	case 2:
		report.count("kills by half-close")
		l.raw.CloseWrite()
	case 3:
		report.count("kills by Close frame")
		code := goodbyes[random.Intn(len(goodbyes))]
		announce(code)
		go l.ws.Close(websocket.StatusCode(code), "")
	}
}

// A frame says who sent it to whom and which one of theirs it is. Its checksum covers the very bytes,
// and those have spaces, escapes and numbers that no JSON library would write again the same way.
func frame(random *rand.Rand, from, to, sequence int64, size int) []byte {
	offset := random.Intn(maxData)
	rest := fmt.Appendf(nil, "\"from\": %d,\"to\":%d , \"seq\":%d,\"odd\":[ 1.0e2,\"\\u00e9é\\/\" ],\"data\":\"", from, to, sequence)
	rest = append(rest, dataBlock[offset:offset+size]...)
	rest = append(rest, '"', '}')
	return append(fmt.Appendf(nil, "%s%08x\",", framePrefix, crc32.ChecksumIEEE(rest)), rest...)
}

type content struct{ From, To, Seq int64 }

func readFrame(raw []byte) (content, bool) {
	var c content
	head := len(framePrefix)
	if len(raw) < head+10 || !bytes.HasPrefix(raw, framePrefix) {
		return c, false
	}
	sum, err := strconv.ParseUint(string(raw[head:head+8]), 16, 32)
	if err != nil || uint32(sum) != crc32.ChecksumIEEE(raw[head+10:]) {
		return c, false
	}
	return c, json.Unmarshal(raw, &c) == nil
}

// size is uniform on a logarithmic scale: most frames are small, some have 64 KiB.
func size(random *rand.Rand) int {
	return int(math.Exp(random.Float64() * math.Log(maxData)))
}

// phone is one connection of a phone. Of each stream, up and down, it has how many frames were begun,
// how many the socket took, and how many arrived.
type phone struct {
	*link
	id, server                 int64
	upSent, upDone, upArrived  atomic.Int64
	downSent, downDone, downIn atomic.Int64
	binary                     atomic.Int64
	closeCode                  atomic.Int64
}

func (p *phone) take(message []byte) {
	c, ok := readFrame(message)
	if !ok {
		report.fault("phone %d got a frame that was changed on the way", p.id)
		return
	}
	expected := p.downIn.Add(1) - 1
	if c.To != p.id {
		report.fault("phone %d got a frame for phone %d", p.id, c.To)
	} else if c.Seq != expected {
		report.fault("phone %d got frame %d where %d was next", p.id, c.Seq, expected)
	}
	if !p.binary.CompareAndSwap(0, c.From) && p.binary.Load() != c.From {
		report.fault("phone %d belongs to binary %d and got a frame of binary %d", p.id, p.binary.Load(), c.From)
	}
}

func (p *phone) ended(code int) {
	report.count(fmt.Sprintf("phones closed with %d", code))
	switch code {
	case -1, 1000, 3000, 4000, 4404, 4429:
	case directive:
		// A phone that was saying goodbye by itself reads no more frames.
		if got, sent := p.downIn.Load(), p.downSent.Load(); got != sent && p.closeCode.Load() == 0 {
			report.fault("phone %d was closed as the binary ordered, with %d of %d frames delivered", p.id, got, sent)
		}
	default:
		report.fault("phone %d was closed with %d", p.id, code)
	}
}

func (p *phone) talk(random *rand.Rand) {
	mean := time.Duration(float64(*binaries**phonesPerID) / (*framesASecond / 2) * float64(time.Second))
	for data := 1; ; data = size(random) {
		message := frame(random, p.id, 0, p.upSent.Add(1)-1, data)
		if p.write(message) != nil {
			return
		}
		p.upDone.Add(1)
		if !p.pause(random, mean) {
			return
		}
	}
}

// seat is where the present connection of a phone or a binary is found.
type seat[T any] struct{ now atomic.Pointer[T] }

func phoneLife(server int64, at *seat[phone], random *rand.Rand) {
	header := http.Header{
		"X-Pyrycode-Server": {serverID(server)},
		"X-Pyrycode-Token":  {"soak"},
		"User-Agent":        {"soak-phone"},
	}
	time.Sleep(time.Duration(random.Int63n(int64(5 * time.Second))))
	for phase.Load() < silent {
		l, err := dial("/v1/client", header)
		if err != nil {
			report.fault("a phone could not connect: %v", err)
			time.Sleep(time.Second)
			continue
		}
		report.count("phones connected")
		p := &phone{link: l, id: lastID.Add(1), server: server}
		everyPhone.Store(p.id, p)
		at.now.Store(p)
		go p.talk(rand.New(rand.NewSource(random.Int63())))
		p.ended(p.read(p.take))
		at.now.Store(nil)
		// Long enough for a binary to come back, short enough for a storm to stay one.
		time.Sleep(time.Duration(50+random.Intn(200)) * time.Millisecond)
	}
}

// peer is a phone as its binary knows it.
type peer struct {
	connID  string
	phone   *phone
	arrived int64
}

// binary is one connection of a binary.
type binary struct {
	*link
	id, server int64
	mutex      sync.Mutex
	peers      map[string]*peer
	present    []*peer
	noticed    map[string]bool
}

type envelope struct {
	ConnID    string          `json:"conn_id"`
	Frame     json.RawMessage `json:"frame"`
	CloseCode int             `json:"close_code"`
}

func (b *binary) take(message []byte) {
	var e envelope
	if json.Unmarshal(message, &e) != nil || e.ConnID == "" {
		report.fault("binary %d got something that is no envelope", b.id)
		return
	}
	if owner, known := everyConnID.LoadOrStore(e.ConnID, b.id); known && owner != b.id {
		report.fault("binary %d was told of a conn_id that binary %d knows", b.id, owner)
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.noticed[e.ConnID] {
		report.fault("binary %d heard of a phone after its close notice", b.id)
	} else if e.CloseCode != 0 {
		b.takeNotice(e)
	} else {
		b.takeFrame(e)
	}
}

func (b *binary) takeNotice(e envelope) {
	report.count("close notices")
	b.noticed[e.ConnID] = true
	gone := b.peers[e.ConnID]
	if e.Frame != nil {
		report.fault("binary %d got a close notice with a frame", b.id)
	}
	if gone == nil {
		return
	}
	b.forget(gone)
	code := gone.phone.closeCode.Load()
	if e.CloseCode != 1001 && int64(e.CloseCode) != code {
		report.fault("binary %d got a close notice with %d, the phone sent %d", b.id, e.CloseCode, code)
	}
	if done := gone.phone.upDone.Load(); int64(e.CloseCode) == code && gone.arrived < done {
		report.fault("phone %d said goodbye after %d frames, and %d arrived", gone.phone.id, done, gone.arrived)
	}
}

// forget sees to it that nothing more is sent to a phone. The mutex must be held.
func (b *binary) forget(gone *peer) {
	b.present = slices.DeleteFunc(b.present, func(other *peer) bool { return other == gone })
}

func (b *binary) takeFrame(e envelope) {
	c, ok := readFrame(e.Frame)
	if !ok {
		report.fault("binary %d got a frame that was changed on the way", b.id)
		return
	}
	from := b.peers[e.ConnID]
	if from == nil {
		found, ok := everyPhone.Load(c.From)
		if !ok || found.(*phone).server != b.server {
			report.fault("binary %d got a frame of phone %d, which is not of its server-id", b.id, c.From)
			return
		}
		from = &peer{connID: e.ConnID, phone: found.(*phone)}
		if !from.phone.binary.CompareAndSwap(0, b.id) && from.phone.binary.Load() != b.id {
			report.fault("binary %d got a frame of phone %d, which is binary %d's", b.id, c.From, from.phone.binary.Load())
		}
		b.peers[e.ConnID] = from
		b.present = append(b.present, from)
	}
	if c.From != from.phone.id {
		report.fault("one conn_id stands for phones %d and %d", from.phone.id, c.From)
	} else if c.Seq != from.arrived {
		report.fault("binary %d got frame %d of phone %d where %d was next", b.id, c.Seq, c.From, from.arrived)
	}
	from.arrived++
	from.phone.upArrived.Store(from.arrived)
}

func (b *binary) ended(code int) {
	report.count(fmt.Sprintf("binaries closed with %d", code))
	switch code {
	case -1, 1000, 3000, 4000, 4409:
	default:
		report.fault("binary %d was closed with %d", b.id, code)
	}
}

func (b *binary) pick(random *rand.Rand) *peer {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.present) == 0 {
		return nil
	}
	return b.present[random.Intn(len(b.present))]
}

func (b *binary) send(random *rand.Rand, to *peer, data int, suffix string) error {
	message := fmt.Appendf(nil, `{"conn_id":"%s","frame":`, to.connID)
	message = append(message, frame(random, b.id, to.phone.id, to.phone.downSent.Add(1)-1, data)...)
	if err := b.write(append(message, suffix+"}"...)); err != nil {
		return err
	}
	to.phone.downDone.Add(1)
	return nil
}

func (b *binary) talk(random *rand.Rand) {
	mean := time.Duration(float64(*binaries) / (*framesASecond / 2) * float64(time.Second))
	for b.pause(random, mean) {
		to := b.pick(random)
		if to == nil {
			continue
		}
		frames, data, suffix := 1, size(random), ""
		switch chance := random.Intn(1000); {
		case chance < 2:
			frames, data = burstFrames, 100
			report.count("bursts")
		case chance < 4 && phase.Load() == killing:
			report.count("close directives")
			b.mutex.Lock()
			b.forget(to)
			b.mutex.Unlock()
			suffix = fmt.Sprintf(`,"close_code":%d`, directive)
		}
		for range frames {
			if b.send(random, to, data, suffix) != nil {
				return
			}
		}
	}
}

func binaryLife(server int64, at *seat[binary], random *rand.Rand) {
	header := http.Header{
		"X-Pyrycode-Server":  {serverID(server)},
		"X-Pyrycode-Version": {"1.0.0"},
		"User-Agent":         {"soak-binary"},
	}
	for phase.Load() < silent {
		l, err := dial("/v1/server", header)
		if err != nil {
			report.fault("a binary could not connect: %v", err)
			time.Sleep(time.Second)
			continue
		}
		report.count("binaries connected")
		b := &binary{
			link: l, id: lastID.Add(1), server: server,
			peers: map[string]*peer{}, noticed: map[string]bool{},
		}
		at.now.Store(b)
		go b.talk(rand.New(rand.NewSource(random.Int63())))
		b.ended(b.read(b.take))
		at.now.Store(nil)
		// Sometimes within the grace window, sometimes after it.
		time.Sleep(time.Duration(random.Int63n(int64(2 * time.Second))))
	}
}

func serverID(number int64) string { return fmt.Sprintf("soak-%d", number) }

// killAtRandom kills whoever comes to its mind until the end of the phase, now and then all phones
// of a fifth of the server-ids at once.
func killAtRandom(binarySeats []seat[binary], phoneSeats []seat[phone], random *rand.Rand) {
	end := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	storm := time.Now().Add(stormEvery / 2)
	everybody := len(binarySeats) + len(phoneSeats)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(math.Min(random.ExpFloat64(), 5) * float64(meanLifetime) / float64(everybody)))
		if time.Now().After(storm) {
			storm = time.Now().Add(stormEvery)
			report.count("reconnect storms")
			for _, server := range random.Perm(len(binarySeats))[:(len(binarySeats)+4)/5] {
				for i := range *phonesPerID {
					killPhone(&phoneSeats[server**phonesPerID+i], random)
				}
			}
		}
		if chosen := random.Intn(everybody); chosen >= len(binarySeats) {
			killPhone(&phoneSeats[chosen-len(binarySeats)], random)
		} else if b := binarySeats[chosen].now.Load(); b != nil {
			report.count("binaries killed")
			b.kill(random, func(int) {})
		}
	}
}

func killPhone(at *seat[phone], random *rand.Rand) {
	if p := at.now.Load(); p != nil {
		report.count("phones killed")
		p.kill(random, func(code int) { p.closeCode.CompareAndSwap(0, int64(code)) })
	}
}

// settled says what is missing until every phone is connected and has heard all that was sent to it,
// and every binary all that its phones sent.
func settled(binarySeats []seat[binary], phoneSeats []seat[phone], inSilence bool) string {
	for i := range phoneSeats {
		p, b := phoneSeats[i].now.Load(), binarySeats[i / *phonesPerID].now.Load()
		if p == nil || b == nil || p.binary.Load() != b.id {
			return fmt.Sprintf("phone %d of %s has no connection to its binary", i%*phonesPerID, serverID(int64(i / *phonesPerID)))
		}
		up, down := p.upArrived.Load(), p.downIn.Load()
		if inSilence && (up != p.upSent.Load() || down != p.downSent.Load()) {
			return fmt.Sprintf("of phone %d %d of %d frames arrived, at it %d of %d",
				p.id, up, p.upSent.Load(), down, p.downSent.Load())
		}
	}
	return ""
}

func waitUntilSettled(binarySeats []seat[binary], phoneSeats []seat[phone], inSilence bool) {
	missing := "nothing looked at"
	for deadline := time.Now().Add(settleLimit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		// What was lost never settles, and the verdict is known by then.
		if missing = settled(binarySeats, phoneSeats, inSilence); missing == "" || report.faulty() {
			return
		}
	}
	report.fault("not settled in %v: %s", settleLimit, missing)
}

func main() {
	flag.Parse()
	random := rand.New(rand.NewSource(*seed))
	binarySeats := make([]seat[binary], *binaries)
	phoneSeats := make([]seat[phone], *binaries**phonesPerID)
	var everybody sync.WaitGroup
	start := func(life func(*rand.Rand)) {
		own := rand.New(rand.NewSource(random.Int63()))
		everybody.Add(1)
		go func() { defer everybody.Done(); life(own) }()
	}
	for i := range binarySeats {
		start(func(own *rand.Rand) { binaryLife(int64(i), &binarySeats[i], own) })
	}
	for i := range phoneSeats {
		start(func(own *rand.Rand) { phoneLife(int64(i / *phonesPerID), &phoneSeats[i], own) })
	}
	killAtRandom(binarySeats, phoneSeats, random)
	phase.Store(calm)
	waitUntilSettled(binarySeats, phoneSeats, false)
	time.Sleep(calmTraffic)
	waitUntilSettled(binarySeats, phoneSeats, false)
	phase.Store(silent)
	waitUntilSettled(binarySeats, phoneSeats, true)
	finish(binarySeats, phoneSeats)
	everybody.Wait()
	report.Lock()
	defer report.Unlock()
	json.NewEncoder(os.Stdout).Encode(report)
}

// finish counts, and says goodbye for everybody.
func finish(binarySeats []seat[binary], phoneSeats []seat[phone]) {
	phase.Store(over)
	for i := range phoneSeats {
		if p := phoneSeats[i].now.Load(); p != nil {
			report.count("live pairs at the end")
			report.add("frames of live pairs", p.upArrived.Load()+p.downIn.Load())
			p.closeCode.CompareAndSwap(0, 1000)
			go p.ws.Close(websocket.StatusNormalClosure, "")
		}
	}
	everyPhone.Range(func(_, value any) bool {
		p := value.(*phone)
		report.count("pairs in all")
		report.add("frames arrived", p.upArrived.Load()+p.downIn.Load())
		report.add("frames sent", p.upSent.Load()+p.downSent.Load())
		return true
	})
	for i := range phoneSeats {
		if p := phoneSeats[i].now.Load(); p != nil {
			<-p.done
		}
	}
	for i := range binarySeats {
		if b := binarySeats[i].now.Load(); b != nil {
			go b.ws.Close(websocket.StatusNormalClosure, "")
		}
	}
}
