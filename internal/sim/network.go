package sim

import (
	"errors"
	"time"

	"github.com/cespare/xxhash/v2"

	"multiraft/transport"
	"multiraft/wire"
)

// network is what lies between the sites. It is worse than what transport
// promises: when links are not ordered, frames overtake each other, arrive
// twice, and arrive after their sender or receiver died and came back. Raft has
// to bear all of that.
type network struct {
	c      *cluster
	random random
	links  []link // [from*stores+to]

	// A storm makes all links bad for a while.
	storm weather
}

// link is the way from one site to another.
type link struct {
	cut    int                 // cuts in force; nothing gets through while there are any
	lag    time.Duration       // that every frame is late
	queued [wire.LaneCount]int // bytes on their way
	last   [wire.LaneCount]time.Duration
}

// weather is what is added to the shape of the links.
type weather struct {
	loss, duplicates float64
	delay            time.Duration // up to
}

// frame is one payload on its way.
type frame struct {
	from, to int
	lane     wire.Lane
	payload  []byte
	sum      uint64 // of the payload when it was sent
	link     *link
	late     bool

	// Of the sender when it was sent.
	life        uint32
	incarnation uint64
	copied      bool   // it is an older copy of its store
	protocol    uint16 // that it spoke with the receiver
}

func newNetwork(c *cluster) *network {
	return &network{c: c, random: newRandom(c.seed, streamNetwork), links: make([]link, c.shape.stores*c.shape.stores)}
}

func (n *network) link(from, to int) *link { return &n.links[from*n.c.shape.stores+to] }

// mend ends everything that keeps frames from arriving in time.
func (n *network) mend() {
	for i := range n.links {
		n.links[i].cut, n.links[i].lag = 0, 0
	}
	n.storm = weather{}
}

// send takes a frame from a store and decides what becomes of it.
func (n *network) send(from, to int, lane wire.Lane, payload []byte) error {
	c, l := n.c, n.link(from, to)
	s := c.sites[from]
	f := frame{from: from, to: to, lane: lane, payload: payload, sum: xxhash.Sum64(payload), link: l,
		life: s.life, incarnation: s.stepper.Incarnation(), copied: s.rolled, protocol: s.spoken[to]}
	c.trace.mix(f.sum)
	c.check.sent(&f)
	c.count(framesSent)
	if l.queued[lane] > 0 && l.queued[lane]+len(payload) > c.shape.linkBytes {
		c.count(framesRefused)
		return transport.ErrBusy
	}
	if l.cut > 0 {
		c.count(framesCut)
		return nil
	}
	if n.random.chance(c.background(c.shape.loss) + n.storm.loss) {
		c.count(framesLost)
		return nil
	}
	n.schedule(f)
	if n.random.chance(c.background(c.shape.duplicates) + n.storm.duplicates) {
		c.count(framesDuplicated)
		twin := f
		twin.payload = append([]byte(nil), payload...)
		n.schedule(twin)
	}
	return nil
}

// schedule lets a frame arrive some time later. Ordered links keep the order of
// their lane.
func (n *network) schedule(f frame) {
	c, l := n.c, f.link
	at := c.now + n.random.between(c.shape.delayMin, c.shape.delayMax)
	if l.lag > 0 {
		at += l.lag
		c.count(framesDelayed)
	}
	if n.storm.delay > 0 {
		at += n.random.between(0, n.storm.delay)
		c.count(framesDelayed)
	}
	switch {
	case !c.shape.ordered && n.random.chance(c.background(c.shape.late)):
		// Long enough to meet other terms and other lives. It is in nobody's way.
		f.late = true
		at += n.random.between(0, 5*time.Second)
		c.count(framesLate)
	case at >= l.last[f.lane]:
		l.last[f.lane] = at
	case c.shape.ordered:
		at = l.last[f.lane]
	default:
		c.count(framesReordered)
	}
	if !f.late {
		l.queued[f.lane] += len(f.payload)
	}
	c.agenda.add(event{at: at, kind: eventDeliver, site: int16(f.to), arg: c.agenda.frames.put(f)})
}

// arrive hands a frame to the store it is for, if there is one.
func (n *network) arrive(f *frame) {
	c, s := n.c, n.c.sites[f.to]
	if !f.late {
		f.link.queued[f.lane] -= len(f.payload)
	}
	switch {
	case s.store == nil:
		c.count(framesUnreceived)
		return
	case f.link.cut > 0:
		c.count(framesCut)
		return
	}
	if xxhash.Sum64(f.payload) != f.sum {
		c.check.fail(ruleFrames, "store %d changed a frame to store %d after it was sent", f.from+1, f.to+1)
		return
	}
	if !n.greets(f) {
		c.count(framesOutlived)
		return
	}
	if !n.understands(f) {
		c.count(framesUnspoken)
		return
	}
	if c.plan.Plant == PlantForgedVotes {
		f.payload = forgeVotes(f.payload)
	}
	s.end.received++
	s.end.handler.HandleFrame(storeID(f.from), f.payload)
}

// understands says whether the receiver of a frame speaks the version that it was
// written in, and sees to it that it knows the one that its sender speaks. A
// connection is of one version: what was sent before a store came back as an older
// one ends with it.
func (n *network) understands(f *frame) bool {
	from, s := n.c.sites[f.from], n.c.sites[f.to]
	if f.protocol > s.end.protocol {
		if f.life == from.life && from.store != nil && !from.paused {
			n.down(from, f.to)
			from.poke()
		}
		return false
	}
	agreed := s.end.protocol
	if from.store != nil {
		agreed = min(agreed, from.end.protocol)
	} else if s.peers[f.from] {
		return true // it died on the way
	}
	if s.peers[f.from] && s.spoken[f.from] != agreed {
		n.down(s, f.from)
	}
	if !s.peers[f.from] {
		s.peers[f.from], s.spoken[f.from] = true, agreed
		s.end.handler.PeerUp(storeID(f.from), uint64(from.life), agreed)
	}
	return true
}

// errLinkDown is what stores hear of a peer that went away.
var errLinkDown = errors.New("simulated link is down")

// lose lets site s notice within a while that the connection to a peer is gone,
// as keep-alives and resets do; or not, as happens too.
func (n *network) lose(s *site, peer int) {
	if s.store == nil || !n.random.chance(0.7) {
		return
	}
	at := n.c.now + n.random.between(0, 2*time.Second)
	n.c.agenda.add(event{at: at, kind: eventDown, site: int16(s.at), life: s.life, arg: int32(peer)})
}

// down tells a store that a peer is gone.
func (n *network) down(s *site, peer int) {
	if !s.peers[peer] {
		return
	}
	s.peers[peer], s.spoken[peer] = false, wire.MinProtocolVersion
	n.c.count(linksDown)
	s.end.handler.PeerDown(storeID(peer), errLinkDown)
}

// transportEnd is the transport of one life of a store.
type transportEnd struct {
	handler  transport.Handler // the store
	site     *site
	life     uint32
	closed   bool
	protocol uint16 // the newest that it speaks
	sent     [wire.LaneCount]transport.LaneStats
	received uint64
}

var _ transport.Transport = (*transportEnd)(nil)

// Start has nothing to connect: the first frame from a peer brings it up.
func (e *transportEnd) Start(h transport.Handler) error { e.handler = h; return nil }

// LimitProtocol has the store speak no newer version.
func (e *transportEnd) LimitProtocol(newest uint16) error {
	e.protocol = newest
	return nil
}

// Buffer returns fresh memory: a payload is the receiver's for ever.
func (e *transportEnd) Buffer() []byte { return nil }

// Send passes a frame on, unless the store that sends it is dead already: what a
// crash inside a step left undone must not look done.
func (e *transportEnd) Send(to wire.StoreID, lane wire.Lane, payload []byte) error {
	s := e.site
	peer := siteOf(to)
	switch {
	case e.closed || e.life != s.life || s.volume.crashed:
		return transport.ErrClosed
	case peer < 0 || peer >= len(s.c.sites) || peer == s.at:
		return transport.ErrUnknownPeer
	}
	e.sent[lane].FramesSent++
	e.sent[lane].BytesSent += uint64(len(payload))
	return s.c.network.send(s.at, peer, lane, payload)
}

func (e *transportEnd) Stats() transport.Stats { return transport.Stats{Lanes: e.sent} }

func (e *transportEnd) Close() error {
	e.closed = true
	return nil
}
