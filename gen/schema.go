package gen

// Schema is all the generator knows. [Multiraft] is the one the engine is built
// from; tests make others.
type Schema struct {
	// Module is the import path that the packages wire and group live under.
	Module string
	// Version of the protocol. It changes with anything that makes an old and a
	// new store misunderstand each other, and must be the one that
	// wire/version.go names.
	Version int
	// Oldest is the oldest version that is spoken still. Zero means 1.
	Oldest int
	// Fields are what a message may carry besides kind, group, from, to and
	// term. Their order is the order in Message and on the wire.
	Fields []Field
	// Kinds of messages. The place in the list, counted from 1, is the number on
	// the wire: new ones go to the end, none goes away.
	Kinds []Kind
	// Records are what is stored or sent inside something else.
	Records []Record
	// Roles a replica can be in, with what each does with a message.
	Roles []Role
	// EveryRole lists what is handled alike in all roles.
	EveryRole []Handler
	// MaxReplicas bounds the members of a group, and so the slots of the tables.
	MaxReplicas int
	// Progress is what a leader knows about each member.
	Progress Progress
	// Networks[i] sorts i+1 values. The commit index of up to len(Networks)
	// voters is found with them.
	Networks []Network
}

// Field is one thing a message may carry.
type Field struct {
	Name string
	Form Form
	// Type is the Go type of a word in package wire. Flags are bool and a tail
	// is []byte.
	Type string
	Doc  string
}

// Form says how a field is encoded.
type Form int

const (
	// Word is 8 bytes, little-endian.
	Word Form = iota
	// Flag is a bit of the head.
	Flag
	// Tail is the rest of the message.
	Tail
)

// Kind is one kind of message.
type Kind struct {
	Name string
	Doc  string
	// Since is the version that the kind came with. Zero means 1. As new kinds go to
	// the end, it never falls from one to the next.
	Since int
	// Carries are the fields beyond group, from, to and term, in any order.
	Carries []Use
	Lane    Lane
	// Columnar kinds travel as columns, gathered over all groups of a frame.
	Columnar bool
	// Term is what the receiver does when its term and the message's differ.
	Term TermRule
	// Durability is what must be on disk before the message leaves.
	Durability Durability
}

// Use is a field as one kind of message uses it.
type Use struct {
	Field string
	As    string // what it means there
}

// Lane is the connection a message travels on.
type Lane int

const (
	// Urgent messages are small and keep leaders alive.
	Urgent Lane = iota
	// Bulk messages carry entries.
	Bulk
)

// TermRule is what a receiver does with a term that is not its own. The zero
// rule is that of messages without a term.
type TermRule struct {
	Higher HighTermRule
	Lower  LowTermRule
}

// HighTermRule is what a receiver does with a higher term.
type HighTermRule int

const (
	// NoHighTerm goes with messages without a term.
	NoHighTerm HighTermRule = iota
	// Adopt: become follower in that term, with no leader known.
	Adopt
	// AdoptLeader: become follower in that term; the sender leads it.
	AdoptLeader
	// KeepTerm: handle the message in the own term.
	KeepTerm
	// KeepUnlessRejected: adopt the term only of a message with Reject.
	KeepUnlessRejected
)

// LowTermRule is what a receiver does with a lower term.
type LowTermRule int

const (
	// NoLowTerm goes with messages without a term.
	NoLowTerm LowTermRule = iota
	// IgnoreOld: drop the message.
	IgnoreOld
	// AnswerOldLeader: drop it and tell the sender the newer term.
	AnswerOldLeader
	// RefuseOld: answer with a refusal in the newer term.
	RefuseOld
)

// Durability is what must be on disk before a message leaves.
type Durability int

const (
	// LeavesAtOnce promises nothing.
	LeavesAtOnce Durability = iota
	// WaitsForHardState promises a term or a vote.
	WaitsForHardState
	// WaitsForLog promises entries.
	WaitsForLog
)

// Record is a struct with a codec of its own. Every field takes 8 bytes.
type Record struct {
	Name   string
	Recv   string // receiver name
	Doc    string
	Fields []RecordField
}

// RecordField is a field of a record: a word, a bool, a set of bits or a list.
// At most the last field is a list.
type RecordField struct {
	Name string
	Doc  string
	Type string // Go type of a word in package wire; "bool"; else empty
	Bits *BitSet
	List *Repeated
}

// BitSet declares a type whose values are sets of named bits.
type BitSet struct {
	Type string
	Doc  string
	Bits []Bit // the first is 1, the next 2, then 4
}

// Bit is one member of a BitSet.
type Bit struct{ Name, Doc string }

// Repeated is a counted list of records declared earlier.
type Repeated struct {
	Of string
	// Max bounds the count a decoder accepts. Zero means MaxReplicas.
	Max int
}

// Role is one state of the protocol and what it does with messages.
type Role struct {
	Name     string
	Handlers []Handler
}

// Handler names the method of group.Group that handles kinds of messages. Kinds
// without a handler are ignored.
type Handler struct {
	Method string
	Kinds  []string
}

// Progress is the leader's table: columns with a value per slot, and sets with a
// bit per slot.
type Progress struct {
	States  []State
	Columns []Column
	Sets    []Column
}

// State is one mode of sending.
type State struct{ Name, Doc string }

// Column is one fact about each member. Type is empty for sets.
type Column struct{ Name, Type, Doc string }

// Network is a sorting network: comparators that run one after the other.
type Network []Comparator

// Comparator puts the smaller of two values at A and the larger at B.
type Comparator struct{ A, B int }

var (
	ordinary   = TermRule{Higher: Adopt, Lower: IgnoreOld}
	fromLeader = TermRule{Higher: AdoptLeader, Lower: AnswerOldLeader}
)

// Multiraft returns the schema of the engine.
func Multiraft() *Schema {
	return &Schema{
		Module:  "multiraft",
		Version: 2,
		Fields: []Field{
			{Name: "Reject", Form: Flag, Doc: "Reject marks the refusing answer."},
			{Name: "LogTerm", Type: "Term", Doc: "LogTerm is the term of the entry at Index, or at Hint in a refusal."},
			{Name: "Index", Type: "Index", Doc: "Index is a place in the log of the group."},
			{Name: "Commit", Type: "Index", Doc: "Commit is the commit index as far as the receiver may use it."},
			{Name: "Hint", Type: "Index", Doc: "Hint helps the receiver to go on."},
			{Name: "Context", Type: "uint64", Doc: "Context comes back in the answer."},
			{Name: "Entries", Form: Tail, Doc: "Entries are bytes borrowed by the message: sealed blocks, one behind the other."},
		},
		Kinds:   kinds(),
		Records: records(),
		EveryRole: []Handler{
			{"handleVote", []string{"PreVote", "Vote"}},
			{"handleRemoved", []string{"Removed"}},
		},
		Roles: []Role{
			{"Follower", []Handler{
				{"followerAppend", []string{"Append"}},
				{"followerHeartbeat", []string{"Heartbeat"}},
				{"followerTimeoutNow", []string{"TimeoutNow"}},
				{"followerTransfer", []string{"Transfer"}},
				{"followerVoteResponse", []string{"PreVoteResponse", "VoteResponse"}},
				{"followerSnapshot", []string{"Snapshot"}},
				{"followerReadIndexResponse", []string{"ReadIndexResponse"}},
				{"followerConfirm", []string{"Confirm"}},
			}},
			{"PreCandidate", []Handler{
				{"candidateAppend", []string{"Append"}},
				{"candidateHeartbeat", []string{"Heartbeat"}},
				{"candidateSnapshot", []string{"Snapshot"}},
				{"candidateConfirm", []string{"Confirm"}},
				{"preCandidateResponse", []string{"PreVoteResponse"}},
			}},
			{"Candidate", []Handler{
				{"candidateAppend", []string{"Append"}},
				{"candidateHeartbeat", []string{"Heartbeat"}},
				{"candidateSnapshot", []string{"Snapshot"}},
				{"candidateConfirm", []string{"Confirm"}},
				{"candidateResponse", []string{"VoteResponse"}},
			}},
			{"Leader", []Handler{
				{"leaderAppendResponse", []string{"AppendResponse"}},
				{"leaderHeartbeatResponse", []string{"HeartbeatResponse"}},
				{"leaderTransfer", []string{"Transfer"}},
				{"leaderReadIndex", []string{"ReadIndex"}},
				{"leaderConfirmResponse", []string{"ConfirmResponse"}},
				{"leaderSnapshotResponse", []string{"SnapshotResponse"}},
				{"secondLeader", []string{"Append", "Heartbeat", "Snapshot", "Confirm"}},
			}},
		},
		MaxReplicas: 16,
		Progress:    progress(),
		Networks:    networks(),
	}
}

func kinds() []Kind {
	return []Kind{
		{
			Name: "Append",
			Doc:  "Append carries entries from the leader to a follower.",
			Carries: []Use{
				{"LogTerm", "term of the entry at Index"},
				{"Index", "the entry in front of Entries"},
				{"Commit", "the leader's commit index"},
				{"Entries", "blocks, contiguous from Index+1; may be empty"},
			},
			Lane: Bulk,
			Term: fromLeader,
		},
		{
			Name: "AppendResponse",
			Doc:  "AppendResponse tells the leader how far the follower's durable log matches.",
			Carries: []Use{
				{"Reject", "the entry at Index does not match"},
				{"LogTerm", "when refused, term of the entry at Hint"},
				{"Index", "the matching index, or the refused one"},
				{"Hint", "when refused, the last index that may match; when accepted, 1: others should lead rather than the sender, whose disk is slow"},
			},
			Term:       ordinary,
			Durability: WaitsForLog,
		},
		{
			Name: "Heartbeat",
			Doc:  "Heartbeat keeps followers from campaigning.",
			Carries: []Use{
				{"Commit", "the leader's commit index, at most what the follower has matched"},
				{"Context", "the leader's tick, with lease reads; else zero"},
			},
			Columnar: true,
			Term:     fromLeader,
		},
		{
			Name: "HeartbeatResponse",
			Doc:  "HeartbeatResponse confirms a heartbeat.",
			Carries: []Use{
				{"Hint", "how long the sender promises silence to others, in nanoseconds, from when it heard the heartbeat"},
				{"Context", "that of the heartbeat; zero: nothing is promised"},
			},
			Columnar: true,
			Term:     ordinary,
		},
		{
			Name: "PreVote",
			Doc:  "PreVote asks whether a campaign in this term could win. Nobody adopts the term.",
			Carries: []Use{
				{"LogTerm", "term of the sender's last entry"},
				{"Index", "the sender's last entry"},
				{"Context", "1: the leader asked for this campaign"},
			},
			Term: TermRule{Higher: KeepTerm, Lower: RefuseOld},
		},
		{
			Name: "PreVoteResponse",
			Doc:  "PreVoteResponse answers a PreVote, in the asked term when granted, in the sender's when refused.",
			Carries: []Use{
				{"Reject", "no"},
				{"LogTerm", "when refused, term of the entry at Commit; zero: not known"},
				{"Commit", "when refused, the sender's commit index"},
			},
			Term: TermRule{Higher: KeepUnlessRejected, Lower: IgnoreOld},
		},
		{
			Name: "Vote",
			Doc:  "Vote asks for a vote. The sender's vote for itself is durable before it leaves.",
			Carries: []Use{
				{"LogTerm", "term of the sender's last entry"},
				{"Index", "the sender's last entry"},
				{"Context", "1: the leader asked for this campaign"},
			},
			Term:       TermRule{Higher: Adopt, Lower: RefuseOld},
			Durability: WaitsForHardState,
		},
		{
			Name: "VoteResponse",
			Doc:  "VoteResponse answers a Vote. The vote is durable before it leaves.",
			Carries: []Use{
				{"Reject", "no"},
				{"LogTerm", "when refused, term of the entry at Commit; zero: not known"},
				{"Commit", "when refused, the sender's commit index"},
			},
			Term:       ordinary,
			Durability: WaitsForHardState,
		},
		{
			Name: "TimeoutNow",
			Doc:  "TimeoutNow is the leader's order to campaign at once, the last step of a transfer.",
			Term: ordinary,
		},
		{
			Name: "Transfer",
			Doc:  "Transfer asks the leader to hand over to a member.",
			Carries: []Use{
				{"Hint", "replica id of the member"},
				{"Context", "1: a follower has passed it on"},
			},
		},
		{
			Name:    "ReadIndex",
			Doc:     "ReadIndex asks the leader for an index that is safe to read at.",
			Carries: []Use{{"Context", "names the request at its sender"}},
		},
		{
			Name: "ReadIndexResponse",
			Doc:  "ReadIndexResponse answers a ReadIndex.",
			Carries: []Use{
				{"Reject", "the sender does not lead, or lost leadership meanwhile"},
				{"Index", "the index that must be applied before reading"},
				{"Context", "of the request"},
			},
			Term: ordinary,
		},
		{
			Name: "Propose",
			Doc:  "Propose forwards commands to the leader of its term.",
			Carries: []Use{
				{"Context", "names the request at its sender"},
				{"Entries", "length-prefixed payloads, as in a block"},
			},
			Lane: Bulk,
			Term: TermRule{Higher: KeepTerm, Lower: IgnoreOld},
		},
		{
			Name: "ProposeResponse",
			Doc:  "ProposeResponse tells results of a Propose; there may be several.",
			Carries: []Use{
				{"Reject", "nothing was appended"},
				{"Hint", "the place in the request of the first result; when refused, why"},
				{"Context", "of the request"},
				{"Entries", "results of commands, one behind the other"},
			},
			Lane: Bulk,
		},
		{
			Name: "Snapshot",
			Doc:  "Snapshot announces the state that replaces a follower's log.",
			Carries: []Use{
				{"LogTerm", "term of the entry at Index"},
				{"Index", "the last entry the state holds"},
				{"Context", "names the snapshot at its sender"},
				{"Entries", "metadata of the snapshot"},
			},
			Lane: Bulk,
			Term: fromLeader,
		},
		{
			Name: "SnapshotResponse",
			Doc:  "SnapshotResponse tells the leader what became of a snapshot.",
			Carries: []Use{
				{"Reject", "it was not installed"},
				{"Index", "the last entry the state holds"},
				{"Context", "names the snapshot at the leader"},
			},
			Term: ordinary,
		},
		{
			Name:    "Removed",
			Doc:     "Removed tells a replica that it is no longer a member.",
			Carries: []Use{{"Context", "index of the membership without it"}},
		},
		{
			Name: "Quiesce",
			Doc:  "Quiesce tells a follower that the leader stops ticking the group.",
			Carries: []Use{
				{"Index", "the leader's last entry"},
				{"Commit", "the leader's commit index, equal to Index"},
			},
			Term: fromLeader,
		},
		{
			Name: "Wake",
			Doc:  "Wake ends the rest that Quiesce began.",
		},
		{
			Name:    "Join",
			Doc:     "Join tells a store that a replica was added there, which has not been heard yet.",
			Carries: []Use{{"Context", "index of the membership in force at the leader"}},
		},
		{
			Name: "SnapshotFetch",
			Doc:  "SnapshotFetch asks the sender of a snapshot for a chunk of it.",
			Carries: []Use{
				{"Reject", "no more is wanted"},
				{"Index", "the last entry the state holds"},
				{"Hint", "the number of the chunk"},
				{"Context", "names the snapshot at its sender"},
			},
		},
		{
			Name: "SnapshotChunk",
			Doc:  "SnapshotChunk is a part of a snapshot.",
			Carries: []Use{
				{"Reject", "the sender has the snapshot no more"},
				{"Index", "the last entry the state holds"},
				{"Hint", "the number of the chunk"},
				{"Context", "names the snapshot at its sender"},
				{"Entries", "the chunk, with its checksum"},
			},
			Lane: Bulk,
		},
		{
			Name:     "Confirm",
			Doc:      "Confirm asks whether its sender still leads, as far as the receiver knows.",
			Carries:  []Use{{"Context", "the read round to confirm"}},
			Columnar: true,
			Term:     fromLeader,
		},
		{
			Name:     "ConfirmResponse",
			Doc:      "ConfirmResponse says that the receiver of a Confirm is in the same term.",
			Carries:  []Use{{"Context", "the read round"}},
			Columnar: true,
			Term:     ordinary,
		},
		{
			Name:  "Digest",
			Doc:   "Digest tells the leader what a state machine made of a range of entries.",
			Since: 2,
			Carries: []Use{
				{"Index", "the last entry of the range"},
				{"Commit", "the entry in front of the range"},
				{"Hint", "digest of the state at Index; zero: the machine has none"},
				{"Context", "hash over what was answered to the entries"},
			},
		},
		{
			Name:  "DigestResponse",
			Doc:   "DigestResponse tells what a majority made of the range of a Digest.",
			Since: 2,
			Carries: []Use{
				{"Index", "the last entry of the range"},
				{"Commit", "the entry in front of the range"},
				{"Hint", "digest of the state at Index; zero: there is no majority for one"},
				{"Context", "hash over what was answered to the entries"},
			},
		},
		{
			Name:  "Repair",
			Doc:   "Repair asks the leader for its state: the sender has lost entries, and keeps its promises.",
			Since: 2,
			Carries: []Use{
				{"LogTerm", "term of the entry at Index"},
				{"Index", "the last entry that the sender has ever acknowledged"},
			},
		},
		{
			Name:  "Rejoin",
			Doc:   "Rejoin asks the leader for another replica in the place of the sender, on the same store. Its sender may be no member.",
			Since: 2,
			Carries: []Use{
				{"Reject", "the sender has lost its promises and does not run; otherwise it took the place of one, and is to be what that was"},
			},
		},
		{
			Name:  "Rejoined",
			Doc:   "Rejoined tells a store that has lost a replica which one the group has there. It is to the store, not to a replica.",
			Since: 2,
			Carries: []Use{
				{"Reject", "none: no id up to Hint is a member there, or will be"},
				{"Hint", "the id"},
				{"Context", "1: it is a voter"},
			},
		},
		{
			Name:    "Bar",
			Doc:     "Bar tells a replica that its group lost its quorum and went on without it.",
			Since:   2,
			Carries: []Use{{"Context", "the recovery generation of the group at the sender"}},
		},
	}
}

func records() []Record {
	return []Record{
		{
			Name: "HardState",
			Recv: "h",
			Doc:  "HardState is what a replica must find again after a crash.",
			Fields: []RecordField{
				{Name: "Term", Type: "Term", Doc: "Term is the last term the replica has seen."},
				{Name: "Vote", Type: "ReplicaID", Doc: "Vote is whom it voted for in Term; zero is nobody."},
				{Name: "Commit", Type: "Index", Doc: "Commit is a lower bound of the commit index."},
			},
		},
		{
			Name: "Member",
			Recv: "m",
			Doc:  "Member is one replica of a group and the store that hosts it.",
			Fields: []RecordField{
				{Name: "Replica", Type: "ReplicaID", Doc: "Replica is its id in the group."},
				{Name: "Store", Type: "StoreID", Doc: "Store hosts it."},
				{Name: "Role", Doc: "Role is its part in elections and commits.", Bits: &BitSet{
					Type: "MemberRole",
					Doc:  "MemberRole is a set of bits: a member may be a voter of both halves of a joint configuration, or leave one half as a voter and stay as a learner.",
					Bits: []Bit{
						{"Voter", "Voter votes in the configuration that is coming, the only one outside joint consensus."},
						{"Outgoing", "Outgoing votes in the configuration that is going."},
						{"Learner", "Learner receives entries and does not vote."},
					},
				}},
			},
		},
		{
			Name: "Membership",
			Recv: "m",
			Doc:  "Membership is the configuration of a group.",
			Fields: []RecordField{
				{Name: "Index", Type: "Index", Doc: "Index is the entry that made it; zero is the one the group was started with."},
				{Name: "AutoLeave", Type: "bool", Doc: "AutoLeave makes the leader propose to leave a joint configuration by itself."},
				{Name: "MaxReplica", Type: "ReplicaID", Doc: "MaxReplica is the highest replica id that was ever given in the group, so that none is given twice; zero is the highest of Members."},
				{Name: "Members", Doc: "Members are all replicas, each once.", List: &Repeated{Of: "Member"}},
			},
		},
		{
			Name: "Descriptor",
			Recv: "d",
			Doc:  "Descriptor is what a store keeps of a replica besides its log; the membership follows it.",
			Fields: []RecordField{
				{Name: "Replica", Type: "ReplicaID", Doc: "Replica is the one that this store has, or had."},
				{Name: "State", Doc: "State is where it is between joining and leaving.", Bits: &BitSet{
					Type: "ReplicaState",
					Doc:  "ReplicaState is a set of bits, none of them for a member.",
					Bits: []Bit{
						{"Joining", "Joining has not applied a membership that it is in."},
						{"Gone", "Gone was removed from the group: the descriptor is a tombstone, and the id is not used again."},
						{"Lost", "Lost has forgotten what it promised: it never runs again, and waits for another replica to take its place."},
						{"Rising", "Rising took the place of a voter that was lost, and asks to become one."},
						{"Barred", "Barred was left behind when the group was recovered from the loss of its quorum: it is not started any more."},
						{"Diverged", "Diverged has a state that is not that of the group, and does not start again."},
					},
				}},
			},
		},
		{
			Name: "Proof",
			Recv: "p",
			Doc:  "Proof names an entry that is committed.",
			Fields: []RecordField{
				{Name: "Index", Type: "Index", Doc: "Index is where it is in the log."},
				{Name: "Term", Type: "Term", Doc: "Term is that of the entry."},
			},
		},
		{
			Name: "Recovery",
			Recv: "r",
			Doc:  "Recovery is what a survivor keeps of the last time that its group was recovered from the loss of its quorum.",
			Fields: []RecordField{
				{Name: "Generation", Type: "uint64", Doc: "Generation counts the recoveries of the group, from one."},
				{Name: "Index", Type: "Index", Doc: "Index is the membership entry that the recovery put behind the log of the replica it went on from."},
				{Name: "Term", Type: "Term", Doc: "Term is that of the entry, above all that survivors knew."},
				{Name: "Ceiling", Type: "ReplicaID", Doc: "Ceiling bounds the replica ids that may have been given before. Those up to it that are no survivors are barred."},
				{Name: "Plan", Type: "uint64", Doc: "Plan is the beginning of the hash of the plan that was confirmed."},
				{Name: "Survivors", Doc: "Survivors are the replicas that go on.", List: &Repeated{Of: "Member"}},
			},
		},
	}
}

func progress() Progress {
	return Progress{
		States: []State{
			{"probe", "probe sends one message at a time until the follower's log is known to match."},
			{"replicate", "replicate sends ahead of the answers."},
			{"snapshot", "snapshot sends nothing until the state has arrived."},
		},
		Columns: []Column{
			{"match", "wire.Index", "match is the last entry known to be durable there."},
			{"next", "wire.Index", "next is the next entry to send; match < next."},
			{"pendingSnapshot", "wire.Index", "pendingSnapshot is what it must have before entries are sent again."},
			{"commitSent", "wire.Index", "commitSent is the commit index it was last told."},
			{"lastSent", "uint64", "lastSent is the tick of the last append to it."},
			{"readAck", "uint64", "readAck is the last read round it has confirmed."},
			{"leaseUntil", "uint64", "leaseUntil is the tick at which what it has promised may end."},
			{"snapshotAt", "uint64", "snapshotAt is the tick when sending it a snapshot ended."},
			{"state", "progressState", "state is how entries are sent to it."},
		},
		Sets: []Column{
			{"recentActive", "", "recentActive holds those heard from since the last check of the quorum."},
			{"paused", "", "paused holds those that must answer before more is sent."},
			{"snapshotDue", "", "snapshotDue holds those that the next Ready asks a snapshot for."},
			{"snapshotSending", "", "snapshotSending holds those that a snapshot was asked for; the host is to report."},
			{"unheard", "", "unheard holds learners that may not run yet: they have acknowledged nothing to this leader."},
		},
	}
}

// networks returns the sorting networks with the fewest comparators known,
// which for these sizes is also proven (Knuth, The Art of Computer Programming,
// volume 3, section 5.3.4).
func networks() []Network {
	return []Network{
		{},
		{{0, 1}},
		{{0, 2}, {0, 1}, {1, 2}},
		{{0, 2}, {1, 3}, {0, 1}, {2, 3}, {1, 2}},
		{{0, 3}, {1, 4}, {0, 2}, {1, 3}, {0, 1}, {2, 4}, {1, 2}, {3, 4}, {2, 3}},
		{{0, 5}, {1, 3}, {2, 4}, {1, 2}, {3, 4}, {0, 3}, {2, 5}, {0, 1}, {2, 3}, {4, 5}, {1, 2}, {3, 4}},
		{{0, 6}, {2, 3}, {4, 5}, {0, 2}, {1, 4}, {3, 6}, {0, 1}, {2, 5}, {3, 4}, {1, 2}, {4, 6}, {2, 3}, {4, 5}, {1, 2}, {3, 4}, {5, 6}},
	}
}
