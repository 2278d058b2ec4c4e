// What a gate counts. Plain numbers, each of one thread: a worker counts what its sessions do and adds up what the ended ones
// have done; who wants to know asks each worker. On the way of a message nothing is shared and no clock is read.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "gate/traffic.h"

namespace midstream::gate {

// How a connection of a client's came to its end.
enum class Ending {
  client,    // it said that it leaves
  lost,      // its connection ended without a word
  server,    // the server ended the session
  protocol,  // client or server broke the protocol, or there was no room
  refused,   // not let in, see Refusal
  left,      // gone before it was logged in
  late,      // not logged in in time
  cancel,    // it was a cancel request
  operators,  // by the operator's word
  retired,   // the gate ends its work
  moved,     // its database moved, and it could not
  stopped,   // the gate was stopped
};
inline constexpr std::array<std::string_view, 12> kEndings{"client_closed", "client_lost", "server_closed", "protocol_error", "login_refused", "login_left",
                                                          "login_timeout", "cancel_request", "operator", "retired", "switch", "stopped"};

// Why somebody was not let in.
enum class Refusal {
  password,
  rule,         // no rule lets it in, or not without the channel binding that it wants
  database,     // not behind this gate
  lookup,       // nobody could be asked for the verifier
  server,       // the server says no
  unreachable,  // there is no server
  tls,
  late,
  protocol,     // anything else in what it said
};
inline constexpr std::array<std::string_view, 9> kRefusals{"password", "rule", "database", "lookup", "server", "server_unreachable", "tls", "timeout", "protocol"};
// By the SQLSTATE with which the gate itself refuses.
Refusal refusal_of(std::string_view code);

// For what a connection to a server is opened.
enum class Purpose { session, to_go_over, lookup, cancel };
inline constexpr std::array<std::string_view, 4> kPurposes{"session", "switch", "lookup", "cancel"};

// Spans of time, counted in buckets.
struct Spans {
  static constexpr std::array<double, 14> kBounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10};  // seconds, inclusive
  std::array<std::uint64_t, kBounds.size() + 1> counts{};  // the last: longer than all of them
  std::chrono::nanoseconds sum{0};
  void add(std::chrono::nanoseconds span);
  Spans& operator+=(const Spans& other);
  std::uint64_t count() const;
};

// The spans of one session.
struct Held {
  std::uint64_t times = 0;
  std::chrono::nanoseconds last{0}, sum{0}, longest{0};
  void add(std::chrono::nanoseconds span);
};

struct Tally {
  std::uint64_t accepted = 0;
  std::uint64_t logins = 0;  // that came as far as the first ReadyForQuery
  std::uint64_t moved = 0;   // sessions that went over to the other server
  std::uint64_t cancels_passed = 0, cancels_dropped = 0;
  std::array<std::uint64_t, kEndings.size()> ended{};
  std::array<std::uint64_t, kRefusals.size()> refused{};
  std::array<std::array<std::uint64_t, kPurposes.size()>, 2> opened{};  // by the server's place
  Counts counts;  // of sessions that have ended
  Spans held;     // of a session: from the word to stop until it may go on
  Spans waited;   // of a client: that had something to say meanwhile, or wanted in
  std::uint64_t& of(Ending why) { return ended[static_cast<std::size_t>(why)]; }
  std::uint64_t& of(Refusal why) { return refused[static_cast<std::size_t>(why)]; }
  std::uint64_t& of(std::size_t server, Purpose why) { return opened[server][static_cast<std::size_t>(why)]; }
  Tally& operator+=(const Tally& other);
};

// What a session does at this moment.
enum class Doing { logging_in, waiting, idle, busy, in_transaction, ending };
inline constexpr std::array<std::string_view, 6> kDoings{"logging in", "waiting", "idle", "busy", "in transaction", "ending"};
// Whether it could move.
enum class Movable { logging_in, movable, after_transaction, pinned };
inline constexpr std::array<std::string_view, 4> kMovables{"logging in", "movable", "after transaction", "pinned"};
// Its connection to the other server.
enum class Other { none, connecting, connected, failed };
inline constexpr std::array<std::string_view, 4> kOthers{"none", "connecting", "connected", "failed"};

// Everything of one worker, or of all, at one moment: of the sessions that are there too.
struct Totals {
  Tally tally;  // counts and all
  std::array<std::uint64_t, kDoings.size()> doing{};
  std::array<std::uint64_t, kMovables.size()> movable{};
  std::array<std::uint64_t, kOthers.size()> other{};
  void count(Doing a, Movable b, Other c);
  Totals& operator+=(const Totals& other);
};

}  // namespace midstream::gate
