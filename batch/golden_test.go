package batch

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"multiraft/wire"
)

// Goal: frames of an older protocol are understood as they were meant. Method:
// payloads with three messages of every kind, written by a store of that version,
// which are never rewritten.
func TestGoldenPayloads(t *testing.T) {
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
	b := NewBuilder(noBuffer, 0)
	var want [wire.LaneCount][1 + columnKinds][]wire.Message // plain, then by columns
	var kinds, behind []wire.MessageKind                     // columns stand behind the others anyway, see B1
	for k := wire.MessageKind(1); k <= wire.LastKind(1); k++ {
		if k.Columnar() {
			behind = append(behind, k)
		} else {
			kinds = append(kinds, k)
		}
	}
	for _, k := range append(kinds, behind...) {
		for i := range uint64(3) {
			full := wire.Message{
				Kind: k, Group: wire.GroupID(9 - 3*i), From: 1, To: wire.ReplicaID(2 + i/2),
				Term: wire.Term(300 + i), LogTerm: 299, Index: wire.Index(70_000 + i), Commit: wire.Index(69_999 * i),
				Hint: wire.Index(5 * i), Context: i<<40 | uint64(k), Entries: []byte("tail"),
			}
			b.Add(&full)
			var m wire.Message // the fields that travel
			if _, err := m.Decode(full.AppendTo(nil)); err != nil {
				t.Fatal(err)
			}
			list := &want[k.Lane()][columnsOf(k)]
			*list = append(*list, m)
		}
	}
	for _, s := range flush(t, b) {
		payload := golden[s.lane.String()]
		if !bytes.Equal(s.payload, payload) {
			t.Errorf("%s: built\n got %x\nwant %x", s.lane, s.payload, payload)
		}
		var all []wire.Message
		for _, list := range want[s.lane] {
			all = append(all, list...)
		}
		if got := mustRead(t, payload); !reflect.DeepEqual(got, all) {
			t.Errorf("%s: read\n got %+v\nwant %+v", s.lane, got, all)
		}
	}
}
