// Temporary tables, temporary sequences and cursors WITH HOLD of a session: read within the session at a moment of rest, and made again,
// rows and all, in a session on another server. Whatever cannot be made exactly the same, or is more than what is to be copied, is
// named, and stays. Pure: texts and messages, no I/O.
//
// A cursor is read by moving it, and put back. It must be SCROLL for that; and nothing may cancel the session's statement meanwhile:
// who reads keeps the client's own cancel requests away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gate/exchange.h"

namespace midstream::gate {

struct Temporary {
  struct Cursor {
    std::string name;
    bool binary = false;
    std::vector<std::pair<std::string, std::string>> columns;  // name and type
    std::vector<Exchange::Row> rows;
    std::size_t position = 0;  // 0: before the first row; one more than there are: behind the last
    bool operator==(const Cursor&) const = default;
  };
  std::vector<std::vector<std::string>> definitions;  // as temporary_sql.h has them: do, table, copy, sequence, fact
  std::set<std::string> emptied;                      // tables ON COMMIT DELETE ROWS
  std::map<std::string, std::string> rows;            // of a table, as COPY gives them
  std::map<std::string, Exchange::Row> sequences;     // last value, and whether it was given out
  std::vector<Cursor> cursors;
  std::vector<std::pair<std::string, std::string>> analyze;  // owner and table; not compared: it comes and goes by itself

  bool empty() const { return definitions.empty() && cursors.empty(); }
  bool same_tables(const Temporary& other) const { return definitions == other.definitions && emptied == other.emptied; }
  bool operator==(const Temporary& other) const {
    return same_tables(other) && rows == other.rows && sequences == other.sequences && cursors == other.cursors;
  }
};

// What of a session is copied at most.
struct TemporaryLimits {
  std::size_t bytes = 1u << 20;  // of all tables and cursors together
  std::size_t tables = 20;
};

// Rounds of questions in one session. Once begun it is to be gone through to its end: cursors are put back last.
class TemporaryReader {
 public:
  struct Found {  // by the question of belongings.h
    bool tables = false;
    std::vector<std::pair<std::string, bool>> cursors;  // name, BINARY
    bool question_there = false;                        // kAskTemporary is prepared in the session
    // The client's own texts may have made a table ON COMMIT DELETE ROWS.
    bool texts_delete = false;
    bool copy = false;  // it reads what was made by make_temporary(): what was judged there is not judged again
    const Temporary* tables_of = nullptr;  // instead of asking: its tables are known to be those; outlives it
  };
  TemporaryReader(TemporaryLimits limits, Found found);

  bool done() const { return step_ == Step::done; }
  Exchange next();  // REQUIRES !done()
  void answered(const Exchange& round);
  // Why it cannot be copied; "" if `take()` has it.
  const std::string& pinned() const { return pinned_; }
  // The server refused by a cancel, whoever sent it: worth another try.
  bool cancelled() const { return cancelled_; }
  Temporary take() { return std::move(all_); }

 private:
  enum class Step { definitions, contents, rows, restore, done };
  struct Place {
    bool on_row = false;
    std::size_t left = 0;
    bool moved = false;  // it is not where it was
    std::string columns;  // RowDescription
  };
  Exchange ask_definitions() const;
  Exchange ask_contents();
  Exchange ask_rows() const;
  std::size_t next_rows() const;
  Exchange ask_restore() const;
  std::string places() const;
  std::string put_back(std::size_t i) const;
  void defined(const Exchange& round);
  void sort_row(const std::vector<std::string>& row, std::size_t& tables, std::size_t& bytes);
  void filled(const Exchange& round);
  void probed(const Exchange& round);
  void typed(const Exchange::Result& result);
  void placed(const Exchange& round);
  void fetched(const Exchange& round);
  void pin(std::string why);
  void after_rows();
  const TemporaryLimits limits_;
  const Found found_;
  Step step_ = Step::definitions;
  Temporary all_;
  std::map<std::string, std::string> probes_;  // names in the server's words, and whose they are
  std::vector<std::string> asked_;             // of contents, in their order: "r name" or "s name"
  std::vector<Place> places_;
  std::size_t at_ = 0;       // the cursor that is being read
  std::size_t portion_ = 0;  // its rows that are here
  std::size_t bytes_ = 0;
  std::string pinned_;
  bool cancelled_ = false;
};

struct TemporaryMaking {
  std::string requests;
  int answers = 0;
};
// In a session that has none of it; or, with `keep_tables`, one whose tables are those of `all` already and only their rows are to be
// put anew. To be run as the session's user, before its role and its settings count.
TemporaryMaking make_temporary(const Temporary& all, bool keep_tables);
// Whether `keep_tables` can be: rows go in one table after the other, and foreign keys would be in the way.
bool can_keep_tables(const Temporary& all);
// In words, the first thing in which they differ.
std::string difference(const Temporary& wanted, const Temporary& found);

// A text of the client's that may make a table ON COMMIT DELETE ROWS.
bool may_delete_on_commit(std::string_view sql);

}  // namespace midstream::gate
