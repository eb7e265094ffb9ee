package bench

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Phase is a part of a run.
type Phase string

const (
	PhaseStart   Phase = "start"   // opening stores, starting groups, first elections
	PhaseWarmup  Phase = "warm-up" // load that is not measured
	PhaseMeasure Phase = "measure" // the measured window
	PhaseSettle  Phase = "settle"  // replicas catch up before they are compared
	PhaseVerify  Phase = "verify"  // replicas are compared
	PhaseCrash   Phase = "crash"   // a round of Crash has ended
	PhaseNote    Phase = "note"    // something to be told once
)

// Update is one piece of progress.
type Update struct {
	Phase Phase
	// What is counted, from Done to Total, in phases that count.
	What        string
	Done, Total int
	// Elapsed of the phase and its length Of, under load, with what was measured
	// so far. Rate is that of the time since the update before.
	Elapsed, Of time.Duration
	Rate        float64
	P50, P99    time.Duration
	Errors      uint64
	// Text of phases crash and note.
	Text string
}

func (u Update) String() string {
	switch u.Phase {
	case PhaseWarmup, PhaseMeasure:
		text := fmt.Sprintf("%-8s %4.1f s of %v   %s ops/s", u.Phase, u.Elapsed.Seconds(), u.Of, rateText(u.Rate))
		if u.P50 > 0 {
			text += fmt.Sprintf("   p50 %s   p99 %s", durationText(u.P50), durationText(u.P99))
		}
		if u.Errors > 0 {
			text += fmt.Sprintf("   %d errors", u.Errors)
		}
		return text
	case PhaseCrash, PhaseNote:
		return u.Text
	}
	return fmt.Sprintf("%-8s %d of %d %s", u.Phase, u.Done, u.Total, u.What)
}

// Display writes progress for people: on a terminal one line that is rewritten,
// elsewhere a plain line now and then. Its Update method is what [Run] and
// [Crash] take.
type Display struct {
	mu       sync.Mutex // guards the fields below; progress comes from any goroutine
	out      io.Writer
	terminal bool
	now      func() time.Time

	last     Update
	written  time.Time
	lineOpen bool // the terminal's line is not ended yet
}

// NewDisplay returns a Display that writes to out.
func NewDisplay(out io.Writer, terminal bool) *Display {
	return &Display{out: out, terminal: terminal, now: time.Now}
}

// How often a line is written: often enough to see it live, seldom enough not
// to flood a log.
const (
	rewriteInterval = 100 * time.Millisecond
	plainInterval   = 900 * time.Millisecond // below a second, so that updates each second all count
)

// Update shows u, unless something was shown a moment ago. Changes of phase and
// ends of counts are always shown.
func (d *Display) Update(u Update) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	lasting := u.Text != ""
	interval := plainInterval
	if d.terminal {
		interval = rewriteInterval
	}
	news := lasting || u.Phase != d.last.Phase || u.What != d.last.What || (u.Total > 0 && u.Done == u.Total && d.last.Done != u.Done)
	if !news && now.Sub(d.written) < interval {
		return
	}
	if d.terminal && d.lineOpen && u.Phase != d.last.Phase && !lasting {
		d.print("\n") // the last line of a phase stays
	}
	d.last, d.written = u, now
	switch {
	case !d.terminal:
		d.print(u.String() + "\n")
	case lasting:
		d.print("\r\x1b[K" + u.String() + "\n")
		d.lineOpen = false
	default:
		d.print("\r\x1b[K" + u.String())
		d.lineOpen = true
	}
}

// Close ends the line on a terminal.
func (d *Display) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lineOpen {
		d.print("\n")
		d.lineOpen = false
	}
}

// print drops errors: there is nobody to tell that progress cannot be shown.
func (d *Display) print(text string) { _, _ = io.WriteString(d.out, text) }

// rateText writes a count with thousands set apart.
func rateText(v float64) string {
	switch {
	case v >= 100:
		return groupDigits(uint64(v + 0.5))
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// groupDigits writes 1234567 as 1,234,567.
func groupDigits(n uint64) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// durationText writes a latency with three digits.
func durationText(d time.Duration) string {
	us := float64(d) / 1e3
	switch {
	case us < 1000:
		return fmt.Sprintf("%.3g µs", us)
	case us < 1e6:
		return fmt.Sprintf("%.3g ms", us/1e3)
	}
	return fmt.Sprintf("%.3g s", us/1e6)
}

// bytesText writes a size in binary units.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}
