//go:build linux

package faulttest

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv holds the ChildConfig of a process that is to be a child.
const childEnv = "MULTIRAFT_FAULTTEST_CHILD"

// MaybeChild runs the child when this process was started as one, and does not
// return then. TestMain calls it first.
func MaybeChild() {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var cfg ChildConfig
	err := json.Unmarshal([]byte(text), &cfg)
	if err == nil {
		err = RunChild(cfg, os.Stdin, os.NewFile(3, "answers"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errEnded answers calls to a process that has ended, whatever became of them.
var errEnded = errors.New("process has ended")

// Process is a child, perhaps inside another command such as strace.
type Process struct {
	cmd      *exec.Cmd
	stdin    *os.File
	requests *sender
	stderr   tail
	hello    Response
	ended    chan struct{} // closed when all answers were read
	waited   chan struct{} // closed when the command was waited for

	mu      sync.Mutex // guards the fields below
	pidfd   int        // of the child, -1 while unknown
	next    uint64
	waiting map[uint64]chan Response // nil when the process has ended
}

// StartProcess starts a child with the command line wrap in front, and waits
// until its store is open or it has ended. When the store does not open, the
// error is an [*OpenError].
func StartProcess(wrap []string, cfg ChildConfig) (*Process, error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Both pipes are ours, so that cmd.Wait waits for the process only.
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, childOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, childIn.Close(), stdin.Close())
	}
	line := append(append([]string(nil), wrap...), self, "-test.run=^$")
	cmd := exec.Command(line[0], line[1:]...) //gosec:disable G204 -- this test itself, below a tool that a rig names
	p := &Process{
		cmd: cmd, stdin: stdin, requests: newSender(stdin), pidfd: -1,
		ended: make(chan struct{}), waited: make(chan struct{}), waiting: make(map[uint64]chan Response),
	}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GOMAXPROCS=2")
	p.cmd.Stdin, p.cmd.Stderr, p.cmd.ExtraFiles = childIn, &p.stderr, []*os.File{childOut}
	err = errors.Join(p.cmd.Start(), childIn.Close(), childOut.Close())
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), answers.Close())
	}
	first := make(chan Response, 1)
	p.waiting[0] = first
	go p.read(answers)
	go func() {
		// How it ended is told by who ended it; a child that ended by itself is
		// noticed by its missing answers.
		_ = p.cmd.Wait()
		close(p.waited)
	}()
	select {
	case p.hello = <-first:
	case <-p.ended:
	}
	switch p.hello.Outcome {
	case Done:
		return p, nil
	case Refused:
		return nil, &OpenError{Text: p.hello.Text, Stderr: p.Kill()}
	}
	return nil, &OpenError{Killed: true, Stderr: p.Kill()}
}

// OpenError says that the store of a child did not open.
type OpenError struct {
	Killed bool // before it could tell
	Text   string
	Stderr string
}

func (e *OpenError) Error() string {
	if e.Killed {
		return "the child ended before its store was open: " + e.Stderr
	}
	return "the child's store did not open: " + e.Text
}

// read passes on answers until there are no more.
func (p *Process) read(answers *os.File) {
	defer close(p.ended)
	// Nothing was written to it; an error of closing says nothing.
	defer func() { _ = answers.Close() }()
	dec := gob.NewDecoder(answers)
	for {
		var a Response
		// An answer that a killed process has not written whole is none.
		err := dec.Decode(&a)
		if err == nil && a.ID == 0 && a.Outcome == Done {
			// The child has just written, so the id is its own.
			err = p.found(int(a.Value))
		}
		p.mu.Lock()
		if err != nil {
			p.waiting = nil
			p.mu.Unlock()
			return
		}
		wait := p.waiting[a.ID]
		delete(p.waiting, a.ID)
		p.mu.Unlock()
		if wait != nil {
			wait <- a
		}
	}
}

// found takes hold of the child itself.
func (p *Process) found(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it is dead already; there may be answers
	}
	p.mu.Lock()
	p.pidfd = fd
	p.mu.Unlock()
	return err
}

// pipeTimeout bounds how long a request may wait for room in the pipe of a
// process that stands still.
const pipeTimeout = 30 * time.Second

// Call sends a request and waits for its answer. It gives up when ctx ends or
// the process does, with an error; then nothing is known.
func (p *Process) Call(ctx context.Context, q Request) (Response, error) {
	wait := make(chan Response, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return Response{}, errEnded
	}
	p.next++
	q.ID = p.next
	p.waiting[q.ID] = wait
	p.mu.Unlock()
	if err := errors.Join(p.stdin.SetWriteDeadline(time.Now().Add(pipeTimeout)), p.requests.send(q)); err != nil {
		return Response{}, errors.Join(errEnded, err)
	}
	select {
	case a := <-wait:
		return a, nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, q.ID)
		p.mu.Unlock()
		return Response{}, ctx.Err()
	case <-p.ended:
		select {
		case a := <-wait: // it came before the end
			return a, nil
		default:
			return Response{}, errEnded
		}
	}
}

// Signal sends a signal to the child itself, not to what it is wrapped in.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return errEnded
	}
	return unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
}

// Pid returns the process id of the child.
func (p *Process) Pid() int { return int(p.hello.Value) }

// Ended is closed when the process has ended and all its answers were read.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Kill ends the child with SIGKILL, waits for it and what it was wrapped in, and
// returns the end of what it wrote to standard error. It may be called again.
func (p *Process) Kill() string {
	// A child that has no id yet sees the end of its input; what wraps it is
	// killed, and takes it along when it traces it.
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		_ = p.cmd.Process.Kill() // fails only when it has ended
	}
	return p.finish()
}

// Stop has the child close its store and end.
func (p *Process) Stop() string { return p.finish() }

// finish waits for the end.
func (p *Process) finish() string {
	p.mu.Lock()
	fd := p.pidfd
	p.pidfd = -1
	p.mu.Unlock()
	if fd >= 0 {
		// What is closed here was only opened to send signals.
		defer func() { _ = unix.Close(fd) }()
	}
	_ = p.stdin.Close() // fails only when it is closed
	<-p.ended
	<-p.waited
	return p.stderr.String()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

var _ io.Writer = (*tail)(nil)

const tailBytes = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if len(t.buf) > 2*tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
