package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// Goal: connections of stores of the first protocol are understood. Method: what
// went over one, and a refusal, written by stores of that version and never
// rewritten. Hellos are the same in every version.
func TestGoldenConnection(t *testing.T) {
	text, err := os.ReadFile("testdata/protocol1.txt")
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		if name, digits, ok := strings.Cut(strings.TrimSpace(line), " | "); ok {
			if golden[name], err = hex.DecodeString(digits); err != nil {
				t.Fatal(err)
			}
		}
	}
	greeting := func(name string) (h hello) {
		var b [helloBytes]byte
		if copy(b[:], golden[name]) != len(b) {
			t.Fatalf("%s: %d bytes", name, len(golden[name]))
		}
		if err := h.decode(&b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again := h.encode(); again != b {
			t.Errorf("%s: encoded\n got %x\nwant %x", name, again, b)
		}
		return h
	}
	const cluster = 0x1122334455667788
	dialler, acceptor := greeting("dialler"), greeting("acceptor")
	if want := (hello{
		minProtocol: 1, maxProtocol: 1, lane: 1, cluster: cluster, from: 3, to: 258,
		incarnation: 7, met: 5, frameCap: 1 << 20, nonce: 0xdeadbeefcafe,
	}); dialler != want {
		t.Errorf("dialler is %+v, want %+v", dialler, want)
	}
	if err := dialler.check(&acceptor); err != nil {
		t.Error(err)
	}
	if err := acceptor.checkAnswer(&dialler); err != nil {
		t.Error(err)
	}
	refusal := greeting("refusal")
	if err := refusal.checkAnswer(&dialler); err == nil || err.Field != HelloProtocol || !err.Remote {
		t.Errorf("the refusal says %v", err)
	}

	fromDialler, fromAcceptor := sessionKeys(dialler.nonce, acceptor.nonce)
	for _, direction := range []struct {
		name string
		key  uint64
		want []string
	}{
		{"from dialler", fromDialler, []string{"first", "", "third"}},
		{"from acceptor", fromAcceptor, []string{"answer"}},
	} {
		reader := newFrameReader(bytes.NewReader(golden[direction.name]), dialler.lane, direction.key, testFrameCap)
		var payloads [][]byte
		for _, want := range direction.want {
			payload, err := reader.next()
			if err != nil || string(payload) != want {
				t.Errorf("%s: %q, %v; want %q", direction.name, payload, err, want)
			}
			payloads = append(payloads, payload)
		}
		if _, err := reader.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: ends with %v", direction.name, err)
		}
		if again := encodeFrames(t, dialler.lane, direction.key, payloads...); !bytes.Equal(again, golden[direction.name]) {
			t.Errorf("%s: written\n got %x\nwant %x", direction.name, again, golden[direction.name])
		}
	}
}
