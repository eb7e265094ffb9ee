// Package recovery restores groups that have lost their quorum for good, on the
// disks of the stores that survived, none of which is open.
//
//	disks ──Survey──▶ what each store holds ──┐
//	      (one machine each; JSON)            ├─▶ NewPlan ──▶ text for people, JSON, a hash
//	                                          ┘                     │
//	disks ◀── one log batch per group ── Apply ◀── the hash, typed ─┘
//
// Raft cannot do this: what a lost majority has acknowledged without the survivors
// is gone, and only a person can say that it is, and that those who are gone do not
// come back. So nothing here runs by itself. Survey changes nothing; NewPlan is a
// function of what was surveyed; Apply does what a plan says, to stores that are as
// the plan found them, when given the hash of that plan.
//
// # Terms
//
// A survivor is a replica that goes on, the source the one whose log the others
// take over: the one with the highest last term, and of these with the highest last
// index. A replica that is left behind is barred. The floor is the membership
// entry that the recovery puts behind the source's log. A generation counts the
// recoveries of a group. Two recoveries of one generation by different plans make two
// groups of it; NewPlan refuses to take one for the rest of the other.
//
// # What is done
//
// To the source, in one log batch: a membership of the survivors, appended as entry
// floor = last+1 of a term above all that were seen, with a hard state of that term,
// and stored as the membership in force, which makes everything up to the floor
// committed. To the other survivors: a membership in which the source is a voter and
// they are learners, with an index that leaves what they hold as it is. To all of
// them the [wire.Recovery]: floor, generation, survivors, and the bound of the ids
// that are barred.
//
// # Why it is safe
//
//   - Q1: the source holds every entry that any survivor knows, or could know, to
//     be committed. A committed entry is in the log of every leader of a later term,
//     so in every log that ends in a later term, and in every log that ends in the
//     same term and is at least as long. The source's log ends at least as late as
//     that of any survivor that has it.
//   - Q2: after the recovery nobody campaigns who lacks the floor. The source has it.
//     The others are learners in the membership that they begin with, and pass over
//     all memberships in front of the floor (group, G17), which may still stand in
//     their logs, or come with those entries, and of which a few survivors might be a
//     majority. They become voters by applying the floor.
//   - Q3: the floor's index and term name one entry. Only the source is given it, in
//     a term above all that survivors have seen by termLeap. Should those left
//     behind come that far among themselves, their logs still meet no survivor's:
//     survivors drop their messages before a core sees them (engine, Bar).
//   - Q4: a group of survivors and one of those left behind share no voter, as
//     survivors have no use for the old membership any more. So both may go on, but
//     they are two groups, and the second learns so from the first survivor that it
//     meets. It must be kept from clients until then: see docs/quorum-loss.md.
//   - Q5: one batch per group is written as a whole or not at all, so a store that is
//     cut off in the middle has each group before its recovery, or after it; those
//     after it are told by the hash of the plan in their recovery, and Apply goes on
//     with the rest.
//
// What may be lost is what was committed by those left behind alone. The plan tells
// from which index on, and whether they could: not if each majority of every
// membership that may have been in force has a survivor.
//
// # Concurrency
//
// Functions may be called from any goroutine. Each holds the locks of the
// directories that it looks at, and is refused by stores that are open.
package recovery
