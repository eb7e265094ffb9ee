package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"multiraft/engine"
)

// CrashConfig is what [Crash] does. Of Config it uses Stores, Groups, Replicas,
// Payload, Inflight, Active, Transport, NoSync, Dir, Keep, Seed, Snapshots,
// Workers, Appliers and the time-outs; Groups is 200, Inflight 1024 and Snapshots
// 50 when zero. In every other round, from the first on, groups make snapshots;
// in the others they begin with those that there are.
type CrashConfig struct {
	Config
	// Rounds of load, killing and verifying. Zero means 10.
	Rounds int
	// MaxLoad bounds the load before a kill; the moment is random up to it.
	// Zero means 2 s.
	MaxLoad time.Duration
	// Child is the command line that calls [CrashChild] with its standard input
	// and its file descriptor 3.
	Child []string
	// Env is added to the child's environment.
	Env []string
}

// WithDefaults returns a copy in which every zero value is replaced.
func (c CrashConfig) WithDefaults() CrashConfig {
	fill(&c.Groups, 200)
	fill(&c.Inflight, 1024)
	fill(&c.Snapshots, 50)
	fill(&c.Rounds, 10)
	fill(&c.MaxLoad, 2*time.Second)
	c.Mode, c.Workload, c.Verify, c.Rate = ModeAsync, WorkloadWrite, true, 0
	c.Config = c.Config.WithDefaults()
	return c
}

// Validate reports all faults at once, as [Config.Validate] does.
func (c CrashConfig) Validate() error {
	c = c.WithDefaults()
	faults := []error{c.Config.Validate()}
	fault := func(field string, value any, rule string) {
		faults = append(faults, &engine.ConfigError{Field: field, Value: value, Rule: rule})
	}
	if c.Rounds < 1 || c.Rounds > maxRounds {
		fault("Rounds", c.Rounds, fmt.Sprintf("must be 1 to %d", maxRounds))
	}
	if c.MaxLoad < minCrashLoad || c.MaxLoad > maxCrashLoad {
		fault("MaxLoad", c.MaxLoad, fmt.Sprintf("must be %v to %v", minCrashLoad, maxCrashLoad))
	}
	if len(c.Child) == 0 {
		fault("Child", "[]", "must name a command")
	}
	return errors.Join(faults...)
}

const (
	maxRounds    = 100_000
	minCrashLoad = 10 * time.Millisecond
	maxCrashLoad = time.Hour
)

// CrashReport is the result of [Crash].
type CrashReport struct {
	Config Config       `json:"config"`
	Host   Host         `json:"host"`
	Rounds []CrashRound `json:"rounds"`
	// Acknowledged writes over all rounds, each looked for on every replica
	// after every kill that followed it.
	Acknowledged uint64 `json:"acknowledged"`
	// Kills counts processes killed: one per round under load, and those killed
	// while they opened their stores.
	Kills       int          `json:"kills"`
	Verified    bool         `json:"verified"`
	Differences []Difference `json:"differences,omitempty"`
	// TotalDifferences counts all differences.
	TotalDifferences int    `json:"total_differences,omitempty"`
	KeptDir          string `json:"kept_dir,omitempty"`
}

// CrashRound is one kill under load and what was found after it.
type CrashRound struct {
	// LoadSecs is the load before the kill, in which Acknowledged writes were.
	LoadSecs     float64 `json:"load_s"`
	Acknowledged uint64  `json:"acknowledged"`
	// Total counts acknowledged writes since the first round.
	Total uint64 `json:"total"`
	// KilledOpening is true when the process started after the kill was killed
	// too, while it opened its stores.
	KilledOpening bool `json:"killed_opening"`
	// Snapshots is true when groups made snapshots in the load of this round.
	Snapshots bool `json:"snapshots"`
	// Restored counts the replicas whose state began with a snapshot in the process
	// that verified.
	Restored int `json:"restored"`
	// ReopenSecs is the time from the start of the process that verified until
	// it had opened its stores, every group had a leader, and every replica had
	// caught up.
	ReopenSecs  float64 `json:"reopen_s"`
	Differences int     `json:"differences"`
}

// WriteJSON writes the report as one JSON object.
func (r *CrashReport) WriteJSON(w io.Writer) error { return writeJSON(w, r) }

// WriteText writes a summary for people.
func (r *CrashReport) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds, %d processes killed, %s writes acknowledged on %s of %s.\n",
		len(r.Rounds), r.Kills, groupDigits(r.Acknowledged), plural(r.Config.Groups, "group"), plural(r.Config.Replicas, "replica"))
	if r.TotalDifferences > 0 {
		fmt.Fprintf(&b, "NOT all of it survived: %d differences.\n", r.TotalDifferences)
		for _, d := range r.Differences {
			fmt.Fprintf(&b, "  %v\n", d)
		}
		fmt.Fprintf(&b, "The stores are left in %s, seed %d.\n", r.KeptDir, r.Config.Seed)
	} else if r.Verified {
		b.WriteString(wrap(fmt.Sprintf("No acknowledged write was lost or applied twice, and all replicas agree. "+
			"A kill loses what the process held in memory; what the kernel held for the disk survives it, "+
			"so this tests recovery and the order of acknowledgements, and not the syncs (seed %d).", r.Config.Seed), 90))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Crash kills stores under load and looks whether they kept what they had
// acknowledged:
//
//	        ┌─────────────────────── round ────────────────────────┐
//	parent  start ──────────────────── kill ── start ── (kill, start) ──▶ …
//	child        load ── acknowledgements ─▶│        open, catch up, states ─▶ compare
//
// The stores run in a child process and write acknowledgements to a pipe. A
// write counts as acknowledged when the parent has read it from there, also
// after the kill. The next child opens the same directories, waits until every
// group has a leader and all replicas have caught up, and sends what its state
// machines hold; the parent compares that with what was acknowledged, so the
// process that is tested is not the one that judges.
//
// A lost write comes as a [*VerifyError] together with the report. ctx ends the
// work with [ErrInterrupted]. The directories stay when something was found.
func Crash(ctx context.Context, cfg CrashConfig, progress func(Update)) (*CrashReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Update) {}
	}
	if text := cfg.lowered(); text != "" {
		progress(Update{Phase: PhaseNote, Text: text})
	}
	cfg = cfg.WithDefaults()
	if cfg.Seed == 0 {
		cfg.Seed = uint64(rand.Uint32()) + 1 //gosec:disable G404 -- which run it is, not a secret
	}
	dir, err := newScratch(&cfg.Config)
	if err != nil {
		return nil, err
	}
	// The child may have another working directory one day.
	if cfg.Dir, err = filepath.Abs(dir.dir); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	c := &crasher{
		cfg:      cfg,
		progress: progress,
		rng:      rand.New(rand.NewPCG(cfg.Seed, 0)), //gosec:disable G404 -- runs of a seed are to be alike
		report:   &CrashReport{Config: cfg.Config},
		acked:    make([]bitmap, cfg.Groups),
	}
	err = c.run(ctx)
	var verify *VerifyError
	if cfg.Keep || errors.As(err, &verify) {
		c.report.KeptDir = cfg.Dir
	} else {
		err = errors.Join(err, dir.remove())
	}
	return c.report, err
}

// crasher is the parent of one Crash.
type crasher struct {
	cfg      CrashConfig
	progress func(Update)
	rng      *rand.Rand
	report   *CrashReport
	round    int

	// acked has the acknowledged sequence numbers by group, ceiling what lies
	// above every sequence number ever used. The child's reader owns them while
	// a child lives.
	acked   []bitmap
	total   uint64
	ceiling uint64
	opened  time.Duration // by the last child that was let
}

func (c *crasher) run(ctx context.Context) (err error) {
	if c.report.Host, err = describeHost(c.cfg.Dir, c.cfg.NoSync); err != nil {
		return err
	}
	child, _, err := c.open(ctx)
	if err != nil {
		return err
	}
	for c.round = 1; c.round <= c.cfg.Rounds; c.round++ {
		before := c.total
		var r CrashRound
		if r.LoadSecs, err = c.killUnderLoad(ctx, child); err != nil {
			return err
		}
		r.Acknowledged, r.Total, r.Snapshots = c.total-before, c.total, child.snapshots
		if r.KilledOpening, err = c.maybeKillOpening(ctx); err != nil {
			return err
		}
		var found *findings
		if child, found, err = c.open(ctx); err != nil {
			return err
		}
		r.ReopenSecs, r.Restored, r.Differences = c.opened.Seconds(), found.restored, found.total
		c.finish(r)
		if err := found.err(); err != nil {
			c.report.Differences, c.report.TotalDifferences = found.first, found.total
			return errors.Join(err, ignoreKilled(child.kill()))
		}
	}
	c.report.Verified = true
	return ignoreKilled(child.kill())
}

// finish books a round and tells of it.
func (c *crasher) finish(r CrashRound) {
	c.report.Rounds = append(c.report.Rounds, r)
	c.report.Acknowledged = r.Total
	text := fmt.Sprintf("round %d/%d: killed after %.2f s of load and %s acknowledged writes; ",
		c.round, c.cfg.Rounds, r.LoadSecs, groupDigits(r.Acknowledged))
	if r.KilledOpening {
		text += "killed again while opening; "
	}
	text += fmt.Sprintf("reopened and caught up in %.2f s, %d of %s from snapshots; ",
		r.ReopenSecs, r.Restored, plural(c.cfg.Groups*c.cfg.Replicas, "replica"))
	if r.Differences > 0 {
		text += fmt.Sprintf("%d DIFFERENCES", r.Differences)
	} else {
		text += fmt.Sprintf("all %s acknowledged writes are on every replica, and replicas agree", groupDigits(r.Total))
	}
	c.progress(Update{Phase: PhaseCrash, Text: text, Done: c.round, Total: c.cfg.Rounds})
}

// open starts a child and waits until its states were compared.
func (c *crasher) open(ctx context.Context) (*crashChild, *findings, error) {
	began := time.Now()
	child, err := c.start()
	if err != nil {
		return nil, nil, err
	}
	limit := time.NewTimer(c.cfg.StartTimeout + c.cfg.SettleTimeout + time.Minute)
	defer limit.Stop()
	select {
	case found := <-child.compared:
		c.opened = time.Since(began)
		return child, found, nil
	case <-child.ended:
		return nil, nil, c.died(child)
	case <-limit.C:
		return nil, nil, errors.Join(&ChildError{Round: c.round, Err: errors.New("is not ready in time")}, ignoreKilled(child.kill()))
	case <-ctx.Done():
		return nil, nil, errors.Join(ErrInterrupted, ignoreKilled(child.kill()))
	}
}

// killUnderLoad kills the child at a random moment of its load.
func (c *crasher) killUnderLoad(ctx context.Context, child *crashChild) (seconds float64, err error) {
	// Early moments are as likely as late ones on a logarithmic scale, so that
	// the first writes after a start are hit too.
	load := time.Duration(float64(minCrashLoad) * math.Pow(float64(c.cfg.MaxLoad)/float64(minCrashLoad), c.rng.Float64()))
	if err := c.killAfter(ctx, child, load); err != nil {
		return 0, err
	}
	return load.Seconds(), nil
}

// openingKillShare of the rounds kill the process a second time, at a random
// moment of its opening: recovery must survive being cut off.
const openingKillShare = 0.3

func (c *crasher) maybeKillOpening(ctx context.Context) (bool, error) {
	if c.rng.Float64() >= openingKillShare {
		return false, nil
	}
	after := time.Duration(c.rng.Float64() * float64(c.opened))
	child, err := c.start()
	if err != nil {
		return false, err
	}
	return true, c.killAfter(ctx, child, after)
}

func (c *crasher) killAfter(ctx context.Context, child *crashChild, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		c.report.Kills++
		return ignoreKilled(child.kill())
	case <-child.ended:
		return c.died(child)
	case <-ctx.Done():
		return errors.Join(ErrInterrupted, ignoreKilled(child.kill()))
	}
}

// died says why a child ended that nobody killed.
func (c *crasher) died(child *crashChild) error {
	err := child.kill()
	if err == nil {
		err = errors.New("ended by itself")
	}
	return &ChildError{Round: c.round, Err: err, Output: child.stderr.String()}
}

// ignoreKilled drops the error of a process that ended because it was killed.
func ignoreKilled(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil
	}
	return err
}

// crashChild is a running child process.
type crashChild struct {
	cmd      *exec.Cmd
	stdin    io.Closer
	stderr   tailBuffer
	compared chan *findings // holds one
	ended    chan struct{}  // closed when all the child wrote was read
	readErr  error          // valid when ended is closed

	snapshots bool // its groups make some
}

// start starts a child on the directories.
func (c *crasher) start() (*crashChild, error) {
	// Every other round recovers what snapshots have left, and makes none.
	cfg, snapshots := c.cfg.Config, c.round%2 == 0
	if !snapshots {
		cfg.Snapshots = maxSnapshotWrites
	}
	request, err := json.Marshal(crashRequest{Config: cfg, Sequence: c.ceiling})
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe for acknowledgements: %w", err)
	}
	child := &crashChild{
		cmd:      exec.Command(c.cfg.Child[0], c.cfg.Child[1:]...), //gosec:disable G204 -- the caller names its own program
		compared: make(chan *findings, 1),
		ended:    make(chan struct{}),

		snapshots: snapshots,
	}
	child.cmd.Env = append(os.Environ(), c.cfg.Env...)
	child.cmd.ExtraFiles = []*os.File{writer} // descriptor 3
	child.cmd.Stderr = &child.stderr
	stdin, err := child.cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	child.stdin = stdin
	if err := child.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start child: %w", err), reader.Close(), writer.Close())
	}
	// Only the child may hold the writing end, or its death would not be seen.
	if err := writer.Close(); err != nil {
		return nil, errors.Join(err, child.abandon(reader))
	}
	go func() {
		defer close(child.ended)
		child.readErr = errors.Join(c.read(child, reader), reader.Close())
	}()
	if _, err := stdin.Write(append(request, '\n')); err != nil {
		return nil, errors.Join(&ChildError{Round: c.round, Err: err}, ignoreKilled(child.kill()))
	}
	return child, nil
}

// abandon ends a child whose pipe is not read.
func (child *crashChild) abandon(reader *os.File) error {
	return errors.Join(child.cmd.Process.Kill(), ignoreKilled(child.cmd.Wait()), reader.Close())
}

// kill ends the child with SIGKILL, takes in what it had written, and returns
// how it ended.
func (child *crashChild) kill() error {
	err := child.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-child.ended
	if waitErr := child.cmd.Wait(); waitErr != nil {
		return errors.Join(err, waitErr, child.readErr)
	}
	return errors.Join(err, child.readErr)
}

// read takes in everything a child writes, until it is dead.
func (c *crasher) read(child *crashChild, from io.Reader) error {
	r := newPipeReader(from)
	states := make([][]replicaState, c.cfg.Groups)
	found := &findings{}
	for {
		kind, body, err := r.next()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil // the end of a killed process may be half a record
			}
			return err
		}
		switch kind {
		case recordState:
			group, state, err := decodeState(body)
			if err != nil || int(group) >= len(states) {
				return errors.Join(errBadRecord, err)
			}
			states[group] = append(states[group], state)
			if state.restored > 0 {
				found.restored++
			}
		case recordDifference:
			var d Difference
			if err := json.Unmarshal(body, &d); err != nil {
				return errors.Join(errBadRecord, err)
			}
			found.add(d)
		case recordStatesEnd:
			for place := range states {
				if len(states[place]) != c.cfg.Replicas {
					return fmt.Errorf("%w: %d states of group %d", errBadRecord, len(states[place]), groupID(place))
				}
				checkGroup(groupID(place), c.acked[place], states[place], found)
			}
			states = nil
			child.compared <- found
		case recordCeiling:
			ceiling, err := decodeCeiling(body)
			if err != nil {
				return err
			}
			c.ceiling = max(c.ceiling, ceiling)
		case recordAcks:
			n, err := decodeAcks(body, c.acked, c.ceiling)
			if err != nil {
				return err
			}
			c.total += n
		default:
			return fmt.Errorf("%w: kind %d", errBadRecord, kind)
		}
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct{ buf []byte }

const tailBytes = 8 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	return string(bytes.TrimSpace(t.buf[max(0, len(t.buf)-tailBytes):]))
}
