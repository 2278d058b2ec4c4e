// Which requests of a client the server still owes an answer: counted, message by message, never guessed. Pure.
//
// Query, FunctionCall and Sync are each answered by one ReadyForQuery; between them the messages of the extended protocol
// are answered in their order. Two rules of the server make the count more than a sum:
//   - after an error in the extended protocol it drops everything up to the next Sync, Queries too;
//   - while it reads COPY data it drops every Sync. If that COPY fails, nobody outside can tell how far it had read: such a
//     Sync may still be answered. It counts as a doubt, and what the server says next settles it.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "gate/scanner.h"

namespace midstream::gate {

class Answers {
 public:
  // One request that has an answer of its own.
  struct Owed {
    char type = 0;        // Q F S P B D C E, or c (CopyDone, CopyFail): no answer, ends COPY data
    bool portal = false;  // of C, D
    std::string name;     // the key of the statement (P; C) or portal (B; C)
    std::string body;     // of P: whole, or empty where it was too long
    bool large = false;   // of Q: it was too long to be kept
  };

  // A message of the client's has been forwarded.
  void requested(const Message& message);
  // A message of the server's; what it is the answer to, if that is told by it: the request is no longer owed.
  std::optional<Owed> answered(const Message& message);

  // Nothing is owed, nothing is in doubt, no request of the extended protocol waits for its Sync.
  bool none() const { return owed_.empty() && doubts_ == 0 && !unsynced_ && !skipping_; }
  // The server has nothing to answer before it gets more from the client: messages before their Sync, COPY data, or what
  // settles a doubt.
  bool needs_more() const { return unsynced_ || copying_in_ || skipping_ || (owed_.empty() && doubts_ > 0); }
  // Answers came that no request explains: the count means nothing from here on.
  bool lost() const { return lost_; }
  bool copying_in() const { return copying_in_; }
  // What is answered now is a simple query too long to be kept.
  bool large() const { return !owed_.empty() && owed_.front().owed.large; }
  std::size_t size() const { return owed_.size(); }
  std::size_t doubts() const { return doubts_; }
  std::size_t bytes() const { return bytes_; }  // held by what is owed

 private:
  struct Entry {
    Owed owed;
    // A Sync sent where the server reads COPY data: dropped by it; `maybe`: or, if that COPY failed, perhaps not.
    bool in_copy = false;
    bool maybe = false;
  };
  void push(Owed owed, bool in_copy = false);
  Entry take_front();
  char front();
  std::optional<Owed> take(char expected);
  void advanced(std::string_view expected);
  std::optional<Owed> ready();
  std::optional<Owed> failed();
  std::optional<Owed> completed();
  void copy_in_began();
  void copy_in_ended(std::size_t from);
  std::deque<Entry> owed_;
  std::size_t doubts_ = 0;  // Syncs ahead of owed_ that may or may not be answered
  std::size_t bytes_ = 0;
  bool unsynced_ = false;    // messages of the extended protocol have gone since the last Sync
  bool skipping_ = false;    // the server drops everything up to a Sync that has not been sent yet
  bool copying_in_ = false;  // the server reads COPY data, and its end has not been sent
  bool reading_ = false;     // the server reads COPY data, for all that it has told us
  bool progress_ = false;    // the front request has been answered in part
  bool lost_ = false;
};

}  // namespace midstream::gate
