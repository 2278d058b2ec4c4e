// What is simulated: the shipping engine, bare or with a bug planted around it. A planted bug has to be found, or
// the simulation proves nothing.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace midstream::test {

class Subject {
 public:
  virtual ~Subject() = default;
  virtual Result<> fold(const Json& record) { return engine_.fold(record); }
  virtual Effects handle(std::int64_t now, const Event& event) { return engine_.handle(now, event); }
  // Whether the shell stores records before it sends commands.
  virtual bool stores_first() const { return true; }
  const Engine& engine() const { return engine_; }

 protected:
  Engine engine_;
};

enum class Bug {
  none,
  sends_first,             // effect before record
  ignores_epochs,          // forgotten epoch: of answers
  takes_any_adoption,      // ... of agents
  repeats_blindly,         // blind repeat
  ignores_failing,         // forgotten guard: its failing
  takes_doubt_for_pass,    // ... its doubt
  takes_half_back,         // ... what went to new since
  needs_no_word,           // forgotten gate
  sees_no_red,             // forgotten observation
  forgets_the_clock,       // forgotten end of the window
  takes_unknown_for_over,  // ... of what may still go on
  forgets_peers,           // waits only for the host that it calls
  forgets_rules,           // holds only first attempts against window and budget
  forgets_pause,           // ... and against pause
  forgets_way_back,        // goes on whether going back is possible or not
  unguarded_journal,       // of the shell: appends behind what it has not read
  unsynced_journal,        // of the disk: says that it has synced, and has not
};

std::unique_ptr<Subject> make_subject(Bug bug);

}  // namespace midstream::test
