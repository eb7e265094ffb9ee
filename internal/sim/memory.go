package sim

import "runtime/metrics"

// ruleMemory is broken by a process that holds too much. It is no promise of the
// cluster, but a run that grows without bound ends a long campaign for all.
const ruleMemory rule = "memory"

const (
	// defaultMaxHeap is for each run at a time, several times what the largest needs.
	defaultMaxHeap = 512 << 20
	// memoryEvents is how many events pass between two looks at the heap.
	memoryEvents = 1 << 14
	liveHeap     = "/gc/heap/live:bytes"
)

// heap is how many bytes the collector found in use when it was last done.
func heap() uint64 {
	sample := [1]metrics.Sample{{Name: liveHeap}}
	metrics.Read(sample[:])
	return sample[0].Value.Uint64()
}

// weigh ends the run when the process holds more than the plan allows. What the
// collector found in use last is what counts, so it is the process as a whole that
// is weighed, and what this run holds is told beside.
func (c *cluster) weigh() {
	if live := heap(); live > c.plan.MaxHeap {
		frames, disks, applied := 0, int64(0), 0
		for _, f := range c.agenda.frames.items {
			frames += len(f.payload)
		}
		for _, s := range c.sites {
			disks += s.volume.Used()
		}
		for g := range c.check.groups {
			applied += len(c.check.groups[g].applied)
		}
		c.check.fail(ruleMemory, "the process holds %d MiB, more than %d; of this run: %d MiB on disks, %d MiB in frames, %d events to come, %d operations, %d commands",
			live>>20, c.plan.MaxHeap>>20, disks>>20, frames>>20, len(c.agenda.heap), len(c.ops), applied)
	}
}
