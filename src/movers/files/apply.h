// Puts what the other host says into the tree, or finds out why not. All with the tree's mutex held.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "movers/files/tree.h"
#include "movers/files/wire.h"

namespace midstream::files {

// A file that arrived in Parts, in the hidden directory.
struct Staged {
  Fd fd;
  std::string name;
};

// A new small file, whole and without a name: nobody sees it until it gets one. Any thread, without the tree's mutex. `bare`:
// what is made in `hidden` takes nothing over from there, nor from a mask.
Result<Fd> make_nameless(int hidden, const Change& change, bool bare);
// Whether files take neither group nor ACL over from this directory.
bool gives_nothing(int directory);

// Writes a piece of one, which is made with the first. retry: the disk is full or ill. With the tree's mutex held
// where `staged` is not made yet.
Result<> stage_part(Tree& tree, Staged& staged, const Part& part);

// Whether two stats are of the same state of one inode, moved or not (moving changes the ctime).
bool same_state(const Stat& a, const Stat& b);
// The error as one that concerns a single change.
std::unexpected<Error> as_refusal(Error error);

// What did not go in, with owned texts.
struct Rejected {
  std::string path;
  bool need_content = false;
  std::string text;
};

// One frame's worth of changes.
class Applier {
 public:
  explicit Applier(Tree& tree) : tree_(tree) {}
  ~Applier() { restore_times(); }

  // retry: the disk is full or ill, nothing of the change happened, try it again. Any other error concerns this
  // change alone; `need_content` tells of a meta without its content. `staged` goes with Op::parts; `nameless` may be
  // there already for what is put.
  Result<> apply(const Change& change, Staged* staged, bool& need_content, Fd nameless = {});

  // Gives the directories that were touched the times that they should have. Before the mutex is let go.
  void restore_times();

 private:
  enum class Verdict { same, clean, wins, loses, stale };
  struct Touched {
    Place place;
    std::int64_t mtime_ns = 0;  // to be set
    bool known = false;         // it was as the index says when it was first touched
  };

  void note_unlooked(const Change& change, const std::optional<Stat>& local);
  Result<> put(const Change& change, Staged* staged, bool& need_content, Fd nameless);
  Result<bool> put_fresh(const Change& change, const Place& place, Fd nameless);
  Result<> put_root(const Change& change);
  Result<> replace(const Change& change, const Place& place, const std::optional<Stat>& local, Verdict verdict,
                   Staged* staged, bool& again);
  Result<> change_metadata(const Change& change, const Place& place, const Stat& local, bool& again);
  Result<> lose(const Change& change, Staged* staged);
  Result<> rename(const Change& change);
  Result<> remove(const Change& change);
  Result<> remove_directory(const Change& change, const Place& place);
  Result<> stage(const Change& change, Staged& staged);
  Result<> keep_local(const Change& change, const Place& place, const Stat& local, bool& again);
  Result<> install(const Change& change, const Place& place, const std::optional<Stat>& local, Staged& staged,
                   bool& again);
  Result<> take_out(const Change& change, const Place& place, const Stat& local, const std::string& name, int flags,
                    bool& again);
  Result<Verdict> judge(const Change& change, const Place& place, const std::optional<Stat>& local, Version& current);
  bool maybe_torn(const Stat& local) const;
  Result<Version> current_version(const std::string& path, const Place& place, const Stat& local);
  Result<Place> make_place(const std::string& path);
  void let_go(std::string_view directory);
  Result<> touch(const std::string& directory, const Place& place);
  void record(const Change& change, const Stat& stat);

  Tree& tree_;
  std::map<std::string, Touched, std::less<>> touched_;  // held until restore_times()
};

}  // namespace midstream::files
