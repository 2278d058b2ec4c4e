// A golden scenario: lines of input, each followed by what the engine answered, indented by two spaces.
//
// First the plan:
//   hosts old new
//   budget db 1000                        downtime of a service, ms
//   step PHASE ID KIND [HOST] [service=S] [blackout=MS] [deadline=MS] [poll=MS] [attempts=N] [needs=ID,ID]
//                      [peers=HOST,HOST] [guard=S] [takes=MS] [keeps=ID,ID] [back=MS] [window] [irreversible]
//   guard SERVICE HOST from=STEP until=STEP
//   leave HOST [off]                      at the end; off: and it is shut down
// then inputs, in any number; `now` starts at 0:
//   start                                 the controller has begun
//   crash                                 the engine is dropped and the journal folded again; `start` follows
//   adopted HOST [epoch=N]                that agent has adopted our epoch
//   unadopted HOST KIND "what"            that agent cannot be reached, or does not adopt our epoch
//   lost HOST                             the link to that agent broke
//   ask run|back|finish [until=PHASE] [anyway]   the operator
//   pause | continue
//   ok STEP [epoch=N] [call=N]            the apply or undo under way succeeded; the latest call where none is named
//   fail STEP KIND "what" [epoch=N] [call=N]   ... or failed
//   see STEP reached|waiting|held|KIND ["why"] [epoch=N] [call=N]
//   facts [SERVICE=MS ...] [window=open|closed] [left=MS]   left: until the window closes
//   kept STEP ["why"]                     a look at what a hold keeps; why: what does not hold
//   confirm PHASE                         the operator's word for it
//   measured STEP MS                      what it cost its service
//   left HOST [KIND "what"]               nothing of ours is there any more, or that could not be done
//   judge SERVICE pass|fail|inconclusive|both|unknown "words" [dead]     the guard, after a look
//   blind                                 the facts cannot be had at present
//   way-back-open [dead=SERVICE]          everything done could be undone now
//   way-back-closed STEP "why" [dead=SERVICE]
//   now +MS                               time passes
// A line that begins with # is a comment; comments and empty lines stay where they are when rewritten.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace midstream::test {

// The scenario with the answers that the engine gives now; equal to `text` if the scenario holds. Refused, with the
// line, where an input is not understood.
Result<std::string> play(std::string_view text);

}  // namespace midstream::test
