package sim

import (
	"fmt"
	"strings"
)

// counter counts how often something happened in a run. That a fault fired, and
// that the cluster got anything done beside it, is part of what a run proves.
type counter uint8

const (
	framesSent counter = iota
	messagesSent
	framesLost
	framesDuplicated
	framesReordered
	framesDelayed
	framesLate
	framesCut
	framesRefused
	framesUnreceived
	framesOutlived
	framesUnspoken
	linksDown
	syncs
	syncsFailed
	writesFailed
	crashes
	crashesInStep
	crashesInRecovery
	processKills
	powerCuts
	restarts
	upgrades
	downgrades
	messagesUnspoken
	cleanStops
	pauses
	isolations
	splits
	oneWayCuts
	storms
	slowDisks
	slowReads
	hungDisks
	stepsHung
	wipedDisks
	copiedDisks
	rolledBackDisks
	copiesRefused
	storesMended
	bitsFlipped
	writesLost
	writesMisdirected
	replicasDamaged
	replicasLost
	replicasAdded
	replicasSucceeded
	replicasWounded
	replicasHealed
	statesLost
	disksKept
	storesUnreadable
	fullDisks
	clockDrifts
	clockJumps
	usurpations
	schisms
	coups
	openedFull
	leadersElected
	writesAcknowledged
	writesRefused
	writesUnknown
	writesTooLarge
	batchesProposed
	readsAnswered
	readsFailed
	readsStale
	readsStaleConfirmed
	readsUnaged
	readsLeased
	duels
	commandsApplied
	changesAsked
	changesMade
	changesRefused
	changesUnknown
	jointLeft
	idsReused
	transfersAsked
	campaignsAsked
	replicasJoined
	replicasStarted
	replicasRemoved
	startsBarred
	groupsStopped
	statesCaptured
	statesRestored
	segmentsRecycled
	sectorsLost
	sectorsTorn
	sectorsZeroed
	sectorsGarbage
	sectorsReordered
	sizesLost
	namesLost
	callsWithoutRoom
	counters // how many there are
)

var counterNames = [counters]string{
	"frames sent", "messages sent", "frames lost", "frames duplicated", "frames reordered", "frames delayed", "frames late", "frames cut",
	"frames refused", "frames unreceived", "frames between stores that were outlived", "frames of another protocol version", "links down", "syncs", "syncs failed", "writes failed", "crashes", "crashes in a step",
	"crashes in recovery", "process kills", "power cuts", "restarts", "upgrades", "downgrades", "messages not sent to older stores", "clean stops", "pauses", "isolations", "splits",
	"one-way cuts", "storms", "slow disks", "slow reads", "hung disks", "steps on a hung disk", "wiped disks", "copied disks", "disks rolled back", "opens of disks that were outlived", "stores mended", "bits flipped", "writes lost", "writes misdirected", "replicas damaged", "starts of lost replicas", "replicas added by leaders", "lost replicas replaced", "replicas wounded", "replicas healed", "replicas without their state", "rotten disks kept", "stores that could not be read", "full disks", "clock drifts", "clock jumps", "usurpations", "schisms", "coups", "opens without room", "leaders elected", "writes acknowledged", "writes refused", "writes unknown",
	"writes too large", "batches proposed", "reads answered", "reads failed", "reads of old states", "old states refreshed", "reads of states of unknown age", "reads under a lease", "duels of leaders", "commands applied",
	"member changes asked for", "member changes made", "member changes refused", "member changes unknown", "joint configurations left",
	"replica ids to be reused", "transfers asked for", "campaigns asked for", "replicas joined", "replicas started by hand", "replicas removed", "starts barred by a tombstone", "groups stopped",
	"states captured", "states restored", "segments recycled",
	"unsynced sectors lost", "unsynced sectors torn", "unsynced sectors zeroed", "unsynced sectors spoilt", "unsynced sectors kept behind lost ones", "unsynced sizes lost", "unsynced names lost", "calls to a full disk that failed",
}

func (n counter) String() string { return counterNames[n] }

// Counts are the counters of one run or of many.
type Counts [counters]uint64

// Add adds the counters of another run.
func (c *Counts) Add(other *Counts) {
	for n := range c {
		c[n] += other[n]
	}
}

// String lists the counters, one a line.
func (c *Counts) String() string {
	var b strings.Builder
	for n := range c {
		fmt.Fprintf(&b, "%12d  %v\n", c[n], counter(n))
	}
	return b.String()
}
