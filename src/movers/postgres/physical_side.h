// One side of the physical road: what it is now (primary, standby, or stopped), and the acts that change that.
//
// Both clusters hold the same rows, so the title of schema `midstream` is one row in two places, and counts where nothing
// recovers from another's log. `turn` says whose it is: old owns with an even one, new with an odd one.
//
//   STATE/MOVE.server   who runs the local server, so that it is known while the server is down
//   STATE/MOVE.given    the last clean stop here: {turn, lsn of the shutdown checkpoint}; written once the server is down
#pragma once

#include <optional>
#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// The only database of a plan on this road.
const std::string& only_database(const Plan& plan);

// A clean stop with `standby.signal` in place: nothing of this side's can follow `lsn`, where its shutdown checkpoint begins.
struct Given {
  std::int64_t turn = 0;
  std::string lsn;
};

struct SideLook {
  bool up = false;         // the server answers
  bool recovering = false;
  std::string state;       // of the row as it stands here, whoever's it is; "" where there is none
  std::int64_t turn = 0;
  std::string position;    // replayed up to, or written
  bool streaming = false;  // recovering: it is connected. Else: its standby is
  std::int64_t lag_bytes = 0;  // of its standby
  std::int64_t lag_ms = 0;
  bool signal = false;     // `standby.signal` is in place
  Given given;

  bool owns(bool old_side) const { return up && !recovering && state == "owner" && (turn % 2 == 0) == old_side; }
};
Json to_json(const SideLook& look);
SideLook side_look_from_json(const Json& value);
// A server that is down is no error; one that does not answer though it runs, is.
Result<SideLook> look_at_side(const Work& work);

// Notes who runs the local server. REQUIRES that it answers.
Result<> remember_server(const Work& work);
// Where the other side is to be found once this one recovers; takes effect then. Not for a server that has such a setting of its own.
Result<> point_at_other(const Work& work);
Result<> forget_other(const Work& work);
// As lines of a configuration file.
Result<std::string> standby_lines(const Work& work);

// The side that has yielded in `turn` is down, cleanly, with `standby.signal` in place: brought there from whatever a death has
// left. Refused where it has not yielded in that turn. Idempotent.
Result<Given> stop_for_good(const Work& work, std::int64_t turn);
// Up again, as a standby if it was stopped for good. Returns once it answers.
Result<> start_again(const Work& work);

// finish: this standby is stopped for ever. It keeps `standby.signal` and an access file that refuses everybody: whoever starts it
// all the same gets neither a second writer nor old rows. Idempotent.
Result<> retire_standby(const Work& work);

// Each {attempt, refused, error}: nobody logs in, nothing can be written. REQUIRES that this side recovers.
Result<Json> prove_standby(const Work& work);

}  // namespace midstream::postgres
