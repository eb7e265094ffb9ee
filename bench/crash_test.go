package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multiraft/internal/allocs"
	"multiraft/internal/leaks"
	"multiraft/wire"
)

// childEnv makes the test binary a child of Crash.
const childEnv = "MULTIRAFT_BENCH_TEST_CHILD"

func TestMain(m *testing.M) {
	out := io.Writer(os.NewFile(3, "acknowledgements"))
	switch os.Getenv(childEnv) {
	case "":
		leaks.Main(m)
	case "lie":
		out = &liar{out: out}
	case "fail":
		fmt.Fprintln(os.Stderr, "out of order")
		os.Exit(7)
	}
	fmt.Fprintln(os.Stderr, CrashChild(os.Stdin, out))
	os.Exit(1)
}

// liar acknowledges one write to the first group that was never made. It tells
// of a ceiling that no load of a test gets to, and its number is just below.
type liar struct {
	out  io.Writer
	told bool
}

func (l *liar) Write(p []byte) (int, error) {
	n, err := l.out.Write(p)
	if recordKind(p[0]) == recordCeiling && !l.told {
		l.told = true
		const ceiling = 1 << 22
		w := pipeWriter{out: l.out}
		err = errors.Join(err,
			w.write(recordCeiling, binary.LittleEndian.AppendUint64(newRecord(nil), ceiling)),
			w.write(recordAcks, appendAck(newRecord(nil), 0, ceiling-1)))
	}
	return n, err
}

func crashConfig(t *testing.T, child string) CrashConfig {
	return CrashConfig{
		Config: Config{Groups: 6, Inflight: 16, NoSync: true, SegmentBytes: 4 << 20, Dir: t.TempDir(), Seed: 3},
		Rounds: 2, MaxLoad: 100 * time.Millisecond,
		Child: []string{os.Args[0], "-test.run=^$"}, Env: []string{childEnv + "=" + child},
	}
}

func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts stores in processes that it kills")
	}
	var told []string
	report, err := Crash(context.Background(), crashConfig(t, "child"), func(u Update) {
		if u.Phase == PhaseCrash {
			told = append(told, u.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Verified || len(report.Rounds) != 2 || report.Kills < 2 || report.Acknowledged == 0 || len(told) != 2 {
		t.Errorf("%+v, told %q", report, told)
	}
	for i, r := range report.Rounds {
		if r.Snapshots != (i%2 == 0) || r.Restored < 0 || r.Restored > 6*3 {
			t.Errorf("round %d: snapshots %v, %d replicas from them", i+1, r.Snapshots, r.Restored)
		}
		if r.ReopenSecs <= 0 || r.LoadSecs <= 0 || r.Differences != 0 || !strings.Contains(told[i], fmt.Sprintf("round %d/2", i+1)) {
			t.Errorf("round %+v, told %q", r, told[i])
		}
	}
	if left, _ := filepath.Glob(filepath.Join(report.Config.Dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	var text bytes.Buffer
	if err := errors.Join(report.WriteText(&text), report.WriteJSON(&text)); err != nil || !strings.Contains(text.String(), "No acknowledged write was lost") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

// A write that was acknowledged and is nowhere after the kill is found.
func TestCrashFindsLostWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("starts stores in processes that it kills")
	}
	report, err := Crash(context.Background(), crashConfig(t, "lie"), nil)
	var verify *VerifyError
	if !errors.As(err, &verify) || ExitCode(err) != ExitVerify {
		t.Fatalf("got %v", err)
	}
	if report.Verified || report.TotalDifferences != 3 || len(report.Rounds) != 1 || report.Rounds[0].Differences != 3 {
		t.Errorf("%+v", report)
	}
	for _, d := range verify.Differences {
		if d.Kind != DifferenceLost || d.Group != 1 || d.Count != 1 {
			t.Errorf("found %v", d)
		}
	}
	if _, err := os.Stat(filepath.Join(report.KeptDir, "store-1")); err != nil {
		t.Errorf("the stores are not kept: %v", err)
	}
	var text bytes.Buffer
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "NOT all of it survived: 3 differences") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestCrashChildThatDies(t *testing.T) {
	_, err := Crash(context.Background(), crashConfig(t, "fail"), nil)
	var child *ChildError
	if !errors.As(err, &child) || child.Output != "out of order" || ExitCode(err) != ExitOther {
		t.Errorf("got %v", err)
	}
}

func TestCrashInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Crash(ctx, crashConfig(t, "child"), nil); !errors.Is(err, ErrInterrupted) {
		t.Errorf("got %v", err)
	}
}

func TestCrashConfigRules(t *testing.T) {
	good := CrashConfig{Child: []string{"x"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	bad := CrashConfig{Rounds: -1, MaxLoad: time.Nanosecond, Config: Config{Payload: 4}}
	err := bad.Validate()
	for _, field := range []string{"Rounds: ", "MaxLoad: ", "Child: ", "Payload: "} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not in %v", field, err)
		}
	}
}

// A child whose parent is gone ends. Until then it sends what its stores hold,
// and then raises the ceiling before each sequence number it uses.
func TestCrashChildEndsWithParent(t *testing.T) {
	cfg := crashConfig(t, "").WithDefaults().Config
	cfg.Seed = 1
	request, err := json.Marshal(crashRequest{Config: cfg, Sequence: 500})
	if err != nil {
		t.Fatal(err)
	}
	stdin, parent := io.Pipe()
	out, childOut := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := CrashChild(stdin, childOut)
		ended <- errors.Join(err, childOut.Close())
	}()
	if _, err := parent.Write(append(request, '\n')); err != nil {
		t.Fatal(err)
	}
	r := newPipeReader(out)
	states, ceiling, acked := 0, uint64(0), make([]bitmap, cfg.Groups)
	for total := uint64(0); total < 100; {
		kind, body, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case recordState:
			states++
		case recordStatesEnd:
			if states != cfg.Groups*cfg.Replicas {
				t.Fatalf("%d states", states)
			}
		case recordCeiling:
			if ceiling, err = decodeCeiling(body); err != nil {
				t.Fatal(err)
			}
		case recordAcks:
			n, err := decodeAcks(body, acked, ceiling)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		default:
			t.Fatalf("record %d", kind)
		}
	}
	for g, b := range acked {
		b.missing(nil, func(n uint64) bool {
			if n < 500 {
				t.Errorf("group %d: write %d is below the first sequence number", g, n)
			}
			return true
		})
	}
	if err := parent.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrInterrupted) {
		t.Errorf("ended with %v", err)
	}
}

func TestCrashChildRefusesBadRequests(t *testing.T) {
	for _, request := range []string{"", "no json\n", "{}", `{"config":{"stores":-1}}` + "\n"} {
		if err := CrashChild(strings.NewReader(request), io.Discard); err == nil {
			t.Errorf("%q was taken", request)
		}
	}
}

func TestPipeRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	w := pipeWriter{out: &buf}
	want := replicaState{store: 3, index: 4, count: 5, digest: 6, duplicates: 7, firstDuplicate: 8, restored: 9}
	for _, n := range []uint64{0, 77, 300} {
		want.sequences.set(n)
	}
	if err := errors.Join(
		w.write(recordState, appendState(newRecord(nil), 9, &want)),
		w.write(recordStatesEnd, newRecord(nil)),
		w.write(recordAcks, appendAck(appendAck(newRecord(nil), 1, 10), 0, 11)),
	); err != nil {
		t.Fatal(err)
	}
	all := bytes.Clone(buf.Bytes())
	r := newPipeReader(&buf)
	kind, body, err := r.next()
	if err != nil || kind != recordState {
		t.Fatal(kind, err)
	}
	place, got, err := decodeState(body)
	if err != nil || place != 9 {
		t.Fatal(place, err)
	}
	if got.sequences.count() != 3 || !got.sequences.has(300) {
		t.Errorf("sequences %v", got.sequences)
	}
	got.sequences, want.sequences = nil, nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if kind, body, err := r.next(); err != nil || kind != recordStatesEnd || len(body) != 0 {
		t.Error(kind, body, err)
	}
	_, body, err = r.next()
	if err != nil {
		t.Fatal(err)
	}
	acked := make([]bitmap, 2)
	if n, err := decodeAcks(body, acked, 12); err != nil || n != 2 || !acked[1].has(10) || !acked[0].has(11) {
		t.Error(n, err, acked)
	}
	if _, _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	// Cut anywhere, the end is an end, never a record.
	for cut := range all {
		r := newPipeReader(bytes.NewReader(all[:cut]))
		var err error
		for err == nil {
			_, _, err = r.next()
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestPipeRefusesNonsense(t *testing.T) {
	long := make([]byte, recordHeaderBytes)
	binary.LittleEndian.PutUint32(long[4:], maxRecordBytes+1)
	if _, _, err := newPipeReader(bytes.NewReader(long)).next(); !errors.Is(err, errBadRecord) {
		t.Error("oversized record:", err)
	}
	if _, _, err := decodeState(make([]byte, stateHeadBytes-1)); !errors.Is(err, errBadRecord) {
		t.Error("short state:", err)
	}
	if _, _, err := decodeState(make([]byte, stateHeadBytes+3)); !errors.Is(err, errBadRecord) {
		t.Error("state with half a word:", err)
	}
	if _, err := decodeCeiling(binary.LittleEndian.AppendUint64(nil, maxSequence+1)); !errors.Is(err, errBadRecord) {
		t.Error("ceiling:", err)
	}
	acked := make([]bitmap, 1)
	for _, body := range [][]byte{
		make([]byte, ackBytes-1),
		appendAck(nil, 1, 0),                  // no such group
		appendAck(nil, 0, 100),                // at the ceiling
		appendAck(appendAck(nil, 0, 5), 0, 5), // twice
	} {
		if _, err := decodeAcks(body, acked, 100); !errors.Is(err, errBadRecord) {
			t.Errorf("%v: %v", body, err)
		}
	}
}

func TestTailBuffer(t *testing.T) {
	var b tailBuffer
	for i := range 10_000 {
		if _, err := fmt.Fprintf(&b, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	text := b.String()
	if len(text) > tailBytes || !strings.HasSuffix(text, "line 9999") {
		t.Errorf("%d bytes, ends %q", len(text), text[max(0, len(text)-20):])
	}
}

func FuzzPipe(f *testing.F) {
	var buf bytes.Buffer
	w := pipeWriter{out: &buf}
	s := replicaState{store: wire.StoreID(1), sequences: bitmap{1, 2}}
	_ = w.write(recordState, appendState(newRecord(nil), 0, &s)) // a Buffer takes every write
	_ = w.write(recordAcks, appendAck(newRecord(nil), 0, 3))
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		// Room is made for records as they arrive, at most twice what has, and then
		// used again.
		allocs.AtMost(t, uint64(4*pipeBufferBytes+4*len(data)), func() {
			r := newPipeReader(bytes.NewReader(data))
			for err := error(nil); err == nil; {
				_, _, err = r.next()
			}
		})
		r := newPipeReader(bytes.NewReader(data))
		acked := make([]bitmap, 2)
		for {
			kind, body, err := r.next()
			if err != nil {
				return
			}
			switch kind {
			case recordState:
				if place, s, err := decodeState(body); err == nil && s.sequences.limit() > 0 {
					if again := appendState(nil, int(place), &s); !bytes.HasPrefix(body, again) {
						t.Errorf("%x became %x", body, again)
					}
				}
			case recordAcks:
				if n, err := decodeAcks(body, acked, 1<<12); err == nil && n != uint64(len(body)/ackBytes) {
					t.Errorf("%d acknowledgements in %d bytes", n, len(body))
				}
			}
		}
	})
}
