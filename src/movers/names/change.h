// Changing one record, atomically, and waiting until every name server shows it.
#pragma once

#include "movers/names/record.h"
#include "movers/names/servers.h"

namespace midstream::dns {

// "move epoch step", the text of the epoch record.
struct EpochText {
  std::string move;
  std::uint64_t epoch = 0;
  std::string step;

  std::string text() const;
  // nullopt for a text that is not ours.
  static std::optional<EpochText> parse(const std::string& text);
};

// Whether `task` may change a record whose epoch record says `text` ("": there is none). Fenced for an epoch
// that is over, refused for another move's record.
Result<> may_change(const Task& task, const std::string& name, const std::string& text);

struct Change {
  std::string from;      // the value that must be there
  std::string to;        // the value that shall be there
  std::int64_t ttl = 0;  // seconds, from then on
};

// Makes `change` so, unless it is so already, and returns once every address of every name server shows it:
// {"servers": [...], "changed": bool}. Not shown in time: retry, naming who lags; the change itself stands
// then.
Result<Json> make_change(const Context& context, const Record& record, const Change& change);

// Removes the epoch record, where it is this move's.
Result<Json> release(const Context& context, const Record& record);

}  // namespace midstream::dns
