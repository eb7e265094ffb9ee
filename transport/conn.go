package transport

import (
	"errors"
	"net"
	"sync"
	"time"
)

// conn is a connection in service of a link: a goroutine that reads and one that
// writes. Either ends both.
type conn struct {
	p           *peer
	lane        Lane
	nc          net.Conn
	incarnation uint64 // of the peer
	frameCap    uint64 // of the peer
	protocol    uint16 // that is spoken
	reader      *frameReader
	writer      *frameWriter

	once sync.Once
	err  error         // why it was closed; set before stop is closed
	stop chan struct{} // closed when the end begins
	done chan struct{} // closed when it is complete
}

// newConn makes a connection of a socket whose hellos were exchanged. writeKey
// and readKey belong to our frames and to the peer's.
func newConn(p *peer, nc net.Conn, theirs, own *hello, writeKey, readKey uint64) (*conn, error) {
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := tune(socket(nc), p.t.cfg.PeerTimeout); err != nil {
		return nil, err
	}
	c := &conn{
		p:           p,
		lane:        theirs.lane,
		nc:          nc,
		incarnation: theirs.incarnation,
		frameCap:    theirs.frameCap,
		protocol:    theirs.protocol(own),
		stop:        make(chan struct{}),
		done:        make(chan struct{}),
	}
	c.reader = newFrameReader(nc, c.lane, readKey, p.t.cfg.MaxFrameBytes)
	c.writer = newFrameWriter(nc, c.lane, writeKey, c.extendDeadline)
	return c, nil
}

// keepAliveProbes is how many unanswered probes a peer may leave within
// PeerTimeout.
const keepAliveProbes = 4

// tune makes the kernel look for peers that vanished.
func tune(nc net.Conn, timeout time.Duration) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil // a hook made it; the write deadline still holds
	}
	probe := max(timeout/keepAliveProbes, time.Second)
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probe, Interval: probe, Count: keepAliveProbes})
	if err != nil {
		return err
	}
	return setUserTimeout(tcp, timeout)
}

// start begins to read and write.
func (c *conn) start() {
	c.p.t.goroutine.Add(1)
	go c.run()
}

// run reads, waits for the writer, and reports the end to the peer.
func (c *conn) run() {
	defer c.p.t.goroutine.Done()
	var writing sync.WaitGroup
	writing.Go(c.write)
	c.read()
	writing.Wait()
	close(c.done)
	c.p.ended <- c
}

// close begins the end. The first reason counts.
func (c *conn) close(reason error) {
	c.once.Do(func() {
		c.err = reason
		close(c.stop)
		closeConn(c.nc)
	})
}

// abandon ends a connection that was never started.
func (c *conn) abandon(reason error) {
	c.close(reason)
	close(c.done)
}

func (c *conn) read() {
	counters := &c.p.t.counters.lanes[c.lane]
	handler, from := c.p.t.handler, c.p.id
	for {
		payload, err := c.reader.next()
		if err != nil {
			if errors.Is(err, ErrBadFrame) {
				c.p.t.counters.badFrames.Add(1)
			}
			c.close(err)
			return
		}
		counters.framesReceived.Add(1)
		counters.bytesReceived.Add(unsigned(frameHeaderBytes + len(payload)))
		handler.HandleFrame(from, payload)
	}
}

func (c *conn) write() {
	counters := &c.p.t.counters.lanes[c.lane]
	queue := c.p.queues[c.lane]
	var frames [][]byte
	for {
		frames = queue.take(frames, c.stop)
		if frames == nil {
			return
		}
		err := c.writer.write(frames)
		n, size := unsigned(len(frames)), unsigned(framesBytes(frames))
		queue.release(frames)
		if err != nil {
			counters.framesDropped.Add(n)
			c.close(err)
			return
		}
		counters.framesSent.Add(n)
		counters.bytesSent.Add(size)
	}
}

func (c *conn) extendDeadline() error {
	return c.nc.SetWriteDeadline(time.Now().Add(c.p.t.cfg.PeerTimeout))
}
