// load makes one kind of work for a relay, checks every byte that arrives, and prints what it saw
// as one JSON object. It plays the binaries and the phones, and reads from /proc what the relay used.
//
// At most a window of bytes is under way to each receiver: a phone that is behind by more than its
// outbox holds would be closed, and rightly so.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	work    = flag.String("work", "down", "down, up, mixed, rtt, rtt-busy, upgrades, idle, storm or crowd")
	target  = flag.String("target", "127.0.0.1:8080", "where the relay listens")
	backend = flag.String("backend", "", "listen here for what a forwarder dials: there is no relay")
	size    = flag.Int("size", 336, "bytes of a message, as a phone sees it")
	phones  = flag.Int("phones", 5000, "phones of upgrades, idle, storm and crowd")
	pid     = flag.Int("pid", os.Getpid(), "the relay's process")
	seconds = flag.Float64("seconds", 1, "how long to measure")
	seed    = flag.Uint64("seed", 1, "of the messages' content")
)

const (
	window    = 256 << 10 // bytes to or from one phone
	batch     = 64 << 10
	patience  = 60 * time.Second
	perServer = 16
)

type report map[string]float64

func main() {
	flag.Parse()
	time.AfterFunc(time.Duration(*seconds*float64(time.Second))+5*patience, func() { fail(errors.New("took too long")) })
	runs := map[string]func() (report, error){
		"down": saturated, "up": saturated, "mixed": mixed, "rtt": roundTrips, "rtt-busy": roundTrips,
		"upgrades": upgrades, "idle": idle, "storm": storm, "crowd": stay,
	}
	run := runs[*work]
	if run == nil {
		fail(fmt.Errorf("no work called %q", *work))
	}
	result, err := run()
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}

func span() time.Duration { return time.Duration(*seconds * float64(time.Second)) }

func serverID(kind string, i int) string { return fmt.Sprintf("load-%d-%s-%d", os.Getpid(), kind, i) }

// stream is a leg that sends and where its messages' receivers say how far they are.
type stream struct {
	leg    *leg
	flows  []*flow
	window int
	wake   chan struct{}
}

// send fills every window of the stream until stop is set.
func (s *stream) send(stop *atomic.Bool) error {
	buffer := make([]byte, 0, 2*batch)
	for !stop.Load() {
		buffer = buffer[:0]
		for full := false; !full && len(buffer) < batch; {
			full = true
			for _, f := range s.flows {
				if len(buffer) < batch && (f.sent-int(f.got.Load()))*f.size < s.window {
					buffer, full = s.leg.add(buffer, f), false
				}
			}
		}
		if len(buffer) == 0 {
			<-s.wake
		} else if err := s.leg.send(buffer); err != nil {
			return err
		}
	}
	return nil
}

// take receives all that comes and wakes the senders.
func take(l *leg, direction func(*phone) *flow, wake map[*flow]chan struct{}) error {
	for {
		p, message, err := l.receive()
		if err != nil {
			return err
		}
		f := direction(p)
		if err := f.arrived(message); err != nil {
			return err
		}
		if f.got.Load()%f.stride == 0 {
			select {
			case wake[f] <- struct{}{}:
			default:
			}
		}
	}
}

func up(p *phone) *flow   { return p.up }
func down(p *phone) *flow { return p.down }

// traffic keeps rooms busy.
type traffic struct {
	rooms   []*room
	flows   []*flow
	streams []*stream
	stop    atomic.Bool
	senders sync.WaitGroup
}

func (t *traffic) start(direction func(*phone) *flow, window int) {
	wake := map[*flow]chan struct{}{}
	var sinks []*leg
	var streams []*stream
	for _, r := range t.rooms {
		from, to := r.phones, r.binary
		if p := r.phones[0].phones[0]; direction(p) == p.down {
			from, to = to, from
		}
		sinks = append(sinks, to...)
		for _, l := range from {
			s := &stream{leg: l, window: window, wake: make(chan struct{}, 1)}
			for _, p := range l.phones {
				f := direction(p)
				f.stride = int64(max(1, window/f.size/2))
				s.flows, wake[f] = append(s.flows, f), s.wake
			}
			t.flows, streams = append(t.flows, s.flows...), append(streams, s)
		}
	}
	for _, l := range sinks {
		go func() {
			if err := take(l, direction, wake); !t.stop.Load() {
				fail(err)
			}
		}()
	}
	t.streams = append(t.streams, streams...)
	for _, s := range streams {
		t.senders.Add(1)
		go func() {
			defer t.senders.Done()
			if err := s.send(&t.stop); err != nil {
				fail(err)
			}
		}()
	}
}

func (t *traffic) got() (messages, bytes int) {
	for _, f := range t.flows {
		n := int(f.got.Load())
		messages, bytes = messages+n, bytes+n*f.size
	}
	return messages, bytes
}

// finish stops sending and waits until all that was sent has arrived.
func (t *traffic) finish() error {
	t.stop.Store(true)
	for _, s := range t.streams {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	t.senders.Wait()
	sent := 0
	for _, f := range t.flows {
		sent += f.sent
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, _ := t.got()
		if got == sent {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d messages never came", sent-got, sent)
		}
	}
}

// measure warms up, then counts messages and the relay's CPU time.
func (t *traffic) measure() (report, error) {
	time.Sleep(span() / 4)
	if err := forgetPeak(*pid); err != nil {
		return nil, err
	}
	before, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	messages, bytes := t.got()
	time.Sleep(span())
	moreMessages, moreBytes := t.got()
	took := time.Since(began).Seconds()
	after, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	frames := float64(moreMessages - messages)
	if frames == 0 {
		return nil, errors.New("nothing arrived while measuring")
	}
	return report{
		"frames_per_s": frames / took,
		"bytes_per_s":  float64(moreBytes-bytes) / took,
		"cpu_us":       (after.cpu - before.cpu) / frames * 1e6,
		"peak_kib":     float64(after.peak),
	}, t.finish()
}

func one(n int) func(int) int { return func(int) int { return n } }

// openRoom is a room of the main load.
func openRoom(name string, count, size int) (*room, error) {
	if *backend != "" {
		return openPlain(*target, *backend, count, size, 256<<10, *seed)
	}
	return open(*target, serverID(name, 0), count, one(size), 256<<10, *seed)
}

func saturated() (report, error) {
	r, err := openRoom("main", 8, *size)
	if err != nil {
		return nil, err
	}
	t := &traffic{rooms: []*room{r}}
	t.start(map[string]func(*phone) *flow{"down": down, "up": up}[*work], window)
	return t.measure()
}

// mixed is 200 binaries with 16 phones each, both directions at once, messages of three sizes.
func mixed() (report, error) {
	sizes := []int{100, 336, 336, 4096}
	t := &traffic{rooms: make([]*room, 200)}
	err := each(len(t.rooms), 16, func(i int) (err error) {
		size := func(p int) int { return sizes[(p+i)%4] }
		t.rooms[i], err = open(*target, serverID("mixed", i), perServer, size, 8<<10, *seed)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.start(down, 8<<10)
	t.start(up, 8<<10)
	return t.measure()
}

// roundTrips sends one message at a time from a phone to its binary and back.
func roundTrips() (report, error) {
	r, err := openRoom("lone", 1, *size)
	if err != nil {
		return nil, err
	}
	busy := &traffic{}
	if *work == "rtt-busy" {
		other, err := openRoom("busy", 8, *size)
		if err != nil {
			return nil, err
		}
		busy.rooms = []*room{other}
		busy.start(down, window)
	}
	l, b := r.phones[0], r.binary[0]
	p := l.phones[0]
	go func() {
		for {
			if _, message, err := b.receive(); err != nil {
				fail(err)
			} else if err := p.up.arrived(message); err != nil {
				fail(err)
			} else if err := b.send(b.add(nil, p.down)); err != nil {
				fail(err)
			}
		}
	}()
	var times []float64
	time.Sleep(span() / 4)
	for began := time.Now(); time.Since(began) < span(); {
		sent := time.Now()
		if err := l.send(l.add(nil, p.up)); err != nil {
			return nil, err
		}
		_, message, err := l.receive()
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(sent).Seconds()*1e6)
		if err := p.down.arrived(message); err != nil {
			return nil, err
		}
	}
	slices.Sort(times)
	part := func(share float64) float64 { return times[int(share*float64(len(times)))] }
	return report{"p50_us": part(0.5), "p99_us": part(0.99), "p999_us": part(0.999), "samples": float64(len(times))},
		busy.finish()
}

func upgrades() (report, error) {
	c := newCrowd("upgrades", *phones)
	if err := c.binaries(); err != nil {
		return nil, err
	}
	before, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	took, err := c.join(64)
	if err != nil {
		return nil, err
	}
	after, err := usageOf(*pid)
	return report{
		"upgrades_per_s": float64(*phones) / took.Seconds(),
		"cpu_us":         (after.cpu - before.cpu) / float64(*phones) * 1e6,
	}, err
}

func idle() (report, error) {
	empty, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	c := newCrowd("idle", *phones)
	if _, err := c.join(64); err != nil {
		return nil, err
	}
	before, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(span())
	after, err := usageOf(*pid)
	if here := int(c.here.Load()); err == nil && here != *phones {
		err = fmt.Errorf("%d of %d idle phones are left", here, *phones)
	}
	return report{
		"kib_per_phone": float64(after.rss-empty.rss) / float64(*phones),
		"cpu_percent":   100 * (after.cpu - before.cpu) / *seconds,
		"peak_kib":      float64(after.peak),
	}, err
}

// stay brings a crowd, says so, and keeps it idle until standard input ends.
func stay() (report, error) {
	took, err := newCrowd("crowd", *phones).join(64)
	if err != nil {
		return nil, err
	}
	fmt.Println("here")
	_, err = io.Copy(io.Discard, os.Stdin)
	return report{"seconds": took.Seconds()}, err
}

// storm drops a crowd and brings all of it back at once.
func storm() (report, error) {
	c := newCrowd("storm", *phones)
	if _, err := c.join(64); err != nil {
		return nil, err
	}
	if err := forgetPeak(*pid); err != nil {
		return nil, err
	}
	before, err := usageOf(*pid)
	if err != nil {
		return nil, err
	}
	c.drop()
	runtime.GC()
	took, err := c.join(*phones)
	if err != nil {
		return nil, err
	}
	after, err := usageOf(*pid)
	return report{
		"seconds":     took.Seconds(),
		"redials":     float64(c.redials.Load()),
		"cpu_seconds": after.cpu - before.cpu,
		"peak_kib":    float64(after.peak),
	}, err
}
