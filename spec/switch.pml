/* The switch of one database between old and new, as src/movers/postgres makes it (docs/movers/postgres.md), small
 * enough to be looked at from every side: two hosts, two controllers of which the first is revived after the second
 * has taken over, one stream each way, clients that commit whenever they may, links that are cut, hosts that lose
 * power, agents that are killed, leases that end at the worst moment.
 *
 * spec/check runs it: the model as it is must hold, and with any one of the following taken out it must fail.
 *   NO_FENCE   `closing` and `yielded` do not refuse writes
 *   NO_TITLE   whoever is told to take does, without the hand-over's row; a lease opens again whatever the title says
 *   NO_EPOCH   nobody asks whose command this is
 *   NO_BARRIER the hand-over's row may overtake rows of the stream
 *   NO_ORIGIN  the way back starts where its slot stands, which a crash moves back
 *   NO_LEASE   nobody opens what was closed
 *
 * What is counted, not modelled: rows are numbered, nothing else is known of them. A transaction is one atomic step. */

#ifndef WRITES
#define WRITES 1   /* commits of clients a side */
#endif
#ifndef CRASHES
#define CRASHES 1  /* power cuts or kills, over both hosts */
#endif
#ifndef CUTS
#define CUTS 1     /* of the link between the hosts */
#endif
#ifndef TRIES
#define TRIES 2    /* switches each controller begins before it has no more to say */
#endif

#define OLD 0
#define NEW 1
#define NOBODY 2

mtype = { owner, closing, yielded, standby };

/* ---- durable, one for each side ---- */
mtype title[2];       /* midstream.owner.state */
byte turn[2];         /* midstream.owner.turn */
byte adopted[2];      /* the epoch that the agent has adopted */
byte wrote[2];        /* commits of clients here */
byte got[2];          /* of the other side's commits: applied here */
byte sent_turn[2];    /* the newest hand-over's row written here ... */
byte sent_after[2];   /* ... and how many commits precede it in the log */
byte arrived[2];      /* the newest hand-over's row applied here */
bool following[2];    /* the subscription here is enabled */
bool start_kept[2];   /* where the stream from here must start is durable */

/* ---- lost with the process ---- */
bool start_known[2];  /* the slot was advanced, in memory */
byte life[2];         /* of the host's processes: a call belongs to one life */
bool giving[2];       /* a give is under way in the agent here, 0/1 by controller 1 and 2 */
bool link = true;

/* one request to give a controller has out: the side asked, or NOBODY; answered when it is NOBODY again */
byte asked[3];
byte life_of[3];
bool at_rest = false; /* controller 2 has said that its goal holds */
byte goal = NOBODY;   /* ... namely that this side owns */

#ifdef NO_FENCE
#define writable(s) (title[s] == owner || title[s] == closing || (title[s] == yielded && !following[s]))
#else
#define writable(s) (title[s] == owner)
#endif
#ifdef NO_EPOCH
#define obeys(s, e) true
#else
#define obeys(s, e) (adopted[s] <= e)
#endif
#define other(s) (1 - (s))

/* what the stream from s brings next */
#ifdef NO_BARRIER
#define row_is_next(s) (got[other(s)] < wrote[s])
#define hand_over_is_next(s) (sent_turn[s] > arrived[other(s)])
#else
#define row_is_next(s) (got[other(s)] < wrote[s] && (sent_turn[s] <= arrived[other(s)] || got[other(s)] < sent_after[s]))
#define hand_over_is_next(s) (sent_turn[s] > arrived[other(s)] && got[other(s)] >= sent_after[s])
#endif

#ifdef NO_TITLE
#define openable(s) (title[s] == closing || title[s] == yielded)
#define takeable(s) (sent_turn[other(s)] > turn[s] && (title[s] == standby || title[s] == yielded))
#else
#define openable(s) (title[s] == closing)
#define takeable(s) (arrived[s] > turn[s] && (title[s] == standby || title[s] == yielded))
#endif

inline reopen(s) { if :: openable(s) -> title[s] = owner :: else fi }

/* take(): the stream ends and the slot of the way back moves to here; then one transaction takes the title. */
inline stream_off(s) { following[s] = false; start_kept[s] = false; start_known[s] = true }
inline take_title(s) {
  atomic {
    if
    :: takeable(s) -> title[s] = owner; turn[s] = sent_turn[other(s)];
#ifndef NO_ORIGIN
       start_kept[s] = true;
#endif
    :: else
    fi
  }
}

/* after_give(): the side that yielded follows the new owner. */
inline after_give(s) {
  atomic { if :: title[s] == yielded && title[other(s)] == owner && turn[other(s)] == turn[s] -> following[s] = true :: else fi }
}

/* ---- what goes on by itself on one side: clients commit, its stream flows, its agent's keeper does its duty ---- */
proctype Side(byte s) {
  do
  :: atomic { wrote[s] < WRITES && writable(s) -> wrote[s]++ }

  /* the stream to the other side, in the order of the log */
  :: atomic {
       link && following[other(s)] && row_is_next(s) ->
       assert(start_kept[s] || start_known[s]); /* nothing that came from there goes back there */
       got[other(s)]++; start_kept[s] = true
     }
  :: atomic {
       link && following[other(s)] && hand_over_is_next(s) ->
       assert(start_kept[s] || start_known[s]);
       arrived[other(s)] = sent_turn[s]; start_kept[s] = true
     }

  /* the lease ends, at any moment; what has arrived is taken */
#ifndef NO_LEASE
  :: atomic { openable(s) -> title[s] = owner }
#endif
  :: atomic { takeable(s) -> stream_off(s) }; take_title(s)
  od
}

/* ---- a request of controller e to give, on its way and then at work in the agent of the side asked ---- */
proctype Giver(byte e) {
  do
  :: atomic { asked[e] != NOBODY && !giving[asked[e]] -> giving[asked[e]] = true; life_of[e] = life[asked[e]] };
     if
     :: atomic { life_of[e] == life[asked[e]] && title[asked[e]] == owner && obeys(asked[e], e) -> title[asked[e]] = closing };
        /* sessions end, the fence is proven, the barrier is waited for: anything may happen meanwhile */
        if
        :: atomic { life_of[e] == life[asked[e]] && title[asked[e]] == closing && obeys(asked[e], e) ->
             title[asked[e]] = yielded; turn[asked[e]]++; sent_turn[asked[e]] = turn[asked[e]];
             sent_after[asked[e]] = wrote[asked[e]] }
        :: atomic { life_of[e] == life[asked[e]] -> reopen(asked[e]) }  /* deadline, no proof, a newer epoch, the lease was quicker */
        :: life_of[e] != life[asked[e]] -> skip                         /* died here: the keeper goes on */
        fi
     :: else -> skip
     fi;
     atomic {
       if :: life_of[e] == life[asked[e]] -> giving[asked[e]] = false :: else fi;
       asked[e] = NOBODY; life_of[e] = 0
     }
  od
}

/* ---- a controller and its call on new: settle, prepare, give, take, after ---- */
proctype Controller(byte e) {
  byte tries = (e == 1 -> 1 : TRIES);
  byte giver, taker;
  /* every agent adopts: from here on it obeys nobody older, and what they had under way there is over */
  atomic { adopted[OLD] <= e -> adopted[OLD] = e };
  atomic { adopted[NEW] <= e -> adopted[NEW] = e };
  if :: e == 2 -> (!giving[OLD] && !giving[NEW]) :: else fi;
again:
  do
  :: tries > 0 ->
     tries--;
     if :: giver = OLD :: giver = NEW fi;
     taker = other(giver);
     if :: e == 2 -> goal = taker :: else fi;
retry:
     /* settle: each hand-over that was cut off ends on one side */
     do
     :: atomic { title[OLD] == closing && link && obeys(OLD, e) -> reopen(OLD) }
     :: atomic { title[NEW] == closing && link && obeys(NEW, e) -> reopen(NEW) }
     :: atomic { title[OLD] == yielded && takeable(NEW) && obeys(NEW, e) -> stream_off(NEW) }; take_title(NEW)
     :: atomic { title[NEW] == yielded && takeable(OLD) && obeys(OLD, e) -> stream_off(OLD) }; take_title(OLD)
     :: title[taker] == owner -> goto held
     :: title[giver] == owner && link -> break
     :: !obeys(OLD, e) || !obeys(NEW, e) -> goto outdated
     od;
     if :: obeys(taker, e) -> after_give(taker) :: !obeys(taker, e) -> goto outdated fi;
     /* prepare_take: follows and is complete */
     if
     :: title[taker] != owner && title[giver] == owner && following[taker] && link
     :: title[giver] != owner || !following[taker] || !link -> goto retry
     fi;
     atomic { asked[e] == NOBODY -> asked[e] = giver };
     if
     :: asked[e] == NOBODY -> skip
     :: e == 1 -> goto again  /* stopped waiting; the request is still on its way, and may come late. One that goes
                               * on renews its epoch first, which is what controller 2 stands for. */
     :: goto outdated         /* died for good */
     fi;
     goto retry;
held:
     if :: obeys(giver, e) -> after_give(giver) :: !obeys(giver, e) -> goto outdated fi;
     if :: e == 2 && tries == 0 -> at_rest = true; break :: else fi
  :: tries == 0 -> break
  od;
outdated:
  skip
}

/* ---- faults ---- */
proctype Faults() {
  byte crashes = CRASHES, cuts = CUTS;
  do
  :: atomic { crashes > 0 -> crashes--; life[OLD]++; giving[OLD] = false; start_known[OLD] = false }
  :: atomic { crashes > 0 -> crashes--; life[NEW]++; giving[NEW] = false; start_known[NEW] = false }
  :: cuts > 0 && link -> cuts--; link = false
  :: !link -> link = true
  :: crashes == 0 && cuts == 0 && link -> break
  od
}

init {
  atomic {
    title[OLD] = owner; title[NEW] = standby; following[NEW] = true; start_kept[OLD] = true;
    asked[1] = NOBODY; asked[2] = NOBODY;
    run Side(OLD); run Side(NEW); run Giver(1); run Giver(2); run Controller(1); run Controller(2); run Faults()
  }
}

/* P2 and P1: one writer; who may write has everything the other side has committed; a late command changes nothing. */
ltl safe {
  [] (!(writable(OLD) && writable(NEW)) &&
      (writable(OLD) -> got[OLD] == wrote[NEW]) &&
      (writable(NEW) -> got[NEW] == wrote[OLD]) &&
      (at_rest -> title[goal] == owner))
}

/* P8: where hosts and link stay, somebody owns again and again. */
ltl released { []<> (title[OLD] == owner || title[NEW] == owner) }
