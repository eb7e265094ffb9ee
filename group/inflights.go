package group

import "multiraft/wire"

// inflight is one append on its way: its last entry and its bytes.
type inflight struct {
	last  wire.Index
	bytes int
}

// inflights holds the appends sent to one peer in replicate and not answered
// yet, oldest first, so that the window can be bounded by messages and bytes.
//
//	ring  ┌──┬──┬──┬──┬──┬──┬──┬──┐
//	      │  │  │▒▒│▒▒│▒▒│  │  │  │   start = 2, count = 3
//	      └──┴──┴──┴──┴──┴──┴──┴──┘
//
// The ring grows as the window is used, because one process hosts very many
// groups whose windows stay nearly empty. Its length is a power of two.
type inflights struct {
	ring  []inflight
	start uint32
	count uint32
	bytes int
}

// minInflightRing is the first size of a ring.
const minInflightRing = 4

// full says that no further append may be sent. The window by bytes may be
// exceeded by one append, so that a large one passes a small window.
//
//mr:hotpath
func (f *inflights) full(t *Tuning) bool {
	return int(f.count) >= t.MaxInflightMessages || f.bytes >= t.MaxInflightBytes
}

// add notes an append. REQUIRES: not full; last is above that of the one before.
//
//mr:hotpath
func (f *inflights) add(last wire.Index, bytes int) {
	if int(f.count) == len(f.ring) {
		f.grow()
	}
	f.ring[(f.start+f.count)&f.mask()] = inflight{last: last, bytes: bytes}
	f.count++
	f.bytes += bytes
}

// freeTo lets go of all appends that end at or below match.
//
//mr:hotpath
func (f *inflights) freeTo(match wire.Index) {
	for f.count > 0 {
		oldest := &f.ring[f.start&f.mask()]
		if oldest.last > match {
			return
		}
		f.bytes -= oldest.bytes
		f.start++
		f.count--
	}
}

// reset lets go of all appends.
func (f *inflights) reset() {
	f.start, f.count, f.bytes = 0, 0, 0
}

// shed lets go of the ring too when it is empty.
func (f *inflights) shed() {
	if f.count == 0 {
		f.ring, f.start = nil, 0
	}
}

func (f *inflights) mask() uint32 { return uint32(len(f.ring) - 1) }

func (f *inflights) grow() {
	ring := make([]inflight, max(minInflightRing, 2*len(f.ring)))
	for i := range f.count {
		ring[i] = f.ring[(f.start+i)&f.mask()]
	}
	f.ring, f.start = ring, 0
}
