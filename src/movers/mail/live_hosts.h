// Two hosts with a Dovecot and a Postfix each, in a network namespace of this process's own; two movers joined in this
// process; clients with a ledger: for the tests.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "movers/mail/mail.h"
#include "sys/child.h"
#include "sys/fd.h"

namespace midstream::mail::test {

// What a test's checkpoint throws to stand for the death of the agent.
struct Crash {
  std::string point;
};

// Lines to and from a server.
class Talk {
 public:
  static std::optional<Talk> to(const std::string& address, std::uint16_t port);
  bool say(const std::string& line);
  std::optional<std::string> hear();  // without its CRLF; nothing once the other end has closed, or after 10 s
  // SMTP: says, and returns the code of the answer, 0 where there is none.
  int code(const std::string& line);
  int greeting() { return answer(); }
  // IMAP: one command, its untagged lines and the tagged answer, "" where there is none.
  std::string imap(const std::string& command, std::vector<std::string>* untagged = nullptr);

 private:
  int answer();
  Fd fd_;
  std::string buffer_;
  int tag_ = 0;
};

struct Host {
  std::string name;
  std::string address;
  std::filesystem::path root;
  std::filesystem::path state;
  std::optional<Child> dovecot;
  std::optional<Child> postfix;
  MailOptions options;
  std::unique_ptr<Mover> mover;
  std::stop_source stop;

  bool start_dovecot();
  void kill_dovecot();  // as by a power cut
  bool start_postfix();
  std::string conf() const;
  std::string main_cf() const;
  std::string log() const;
};

class Joined : public Peers {
 public:
  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                    const Task& task, Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello,
                                       const Task& task, Deadline deadline, const std::stop_token& stop) override;
  ~Joined() override { end(); }
  void begin();
  void end();  // every stream is cut, and its server has ended; none is opened until `begin`
  std::map<std::string, Host*> hosts;
  std::atomic<bool> cut = false;

 private:
  std::mutex mutex_;  // guards what follows
  bool ended_ = true;
  std::vector<std::pair<std::jthread, int>> served_;
};

// A mail server of the rest of the world at 127.0.0.9: takes what it is given, or defers all of it.
class Sink {
 public:
  Sink();
  std::multiset<std::string> subjects() const;
  std::multiset<std::string> clients() const;  // the address that each message came from
  std::atomic<bool> deferring = false;

 private:
  void serve(Fd fd);
  mutable std::mutex mutex_;
  std::multiset<std::string> subjects_;
  std::multiset<std::string> clients_;
  Fd listener_;
  std::vector<std::jthread> threads_;
};

inline constexpr int kUsers = 4;
std::string user_name(int number);

class World {
 public:
  static World& get();
  ~World();
  bool usable() const { return usable_; }
  Host& old_host() { return old_; }
  Host& new_host() { return new_; }
  Joined& joined() { return joined_; }
  void fresh();                                        // empty stores, no state, configuration as it was
  void restart_agents(Millis lease = Millis(10'000));  // new movers over the same state
  void stop_agents();

  Json desired(const std::string& kind, const Json& more = Json::object()) const;
  Result<Json> apply(const Json& desired, bool on_old = false);
  Result<Json> undo(const Json& desired, bool on_old = false);
  Result<Json> observe(const Json& desired, bool on_old = false);
  std::string outlook(const Json& desired, bool on_old = false);       // why it could not be undone, "" where it could
  bool wait_reached(const Json& desired, bool on_old, Millis within);  // with the last `why` in `why`
  std::string why;
  void crash_at(const std::string& point);  // "" for never
  bool crashed() const { return crashed_; }
  std::uint64_t epoch = 1;

 private:
  World();
  Context context(Host& host);
  std::filesystem::path root_;
  bool usable_ = false;
  Host old_;
  Host new_;
  Joined joined_;
  std::string old_conf_;
  std::string new_conf_;
  std::mutex mutex_;  // guards crash_point_
  std::string crash_point_;
  std::atomic<bool> crashed_ = false;
};

// Delivers to every user and works in every mailbox all along, over both hosts, and keeps a ledger.
class Clients {
 public:
  explicit Clients(World& world);
  ~Clients() { end(); }
  void end();
  std::atomic<bool> resting = false;  // deliveries stand still, as Postfix's do while Dovecot is reloaded
  std::atomic<bool> busy = false;
  // Returns once no delivery is under way.
  void rest() {
    resting = true;
    while (busy) pause_for(Millis(2), {});
  }
  std::atomic<bool> both = false;  // new is asked as well as old: not before it answers by title
  bool wait_more(int deliveries, int flags, Millis within);  // that many more acknowledged
  // Everything that is wrong with what old or new serves now for every user, "" if nothing.
  std::string audit(const std::string& address);
  Millis longest_pause() const { return Millis(longest_ms_.load()); }  // of a reader that cannot work
  void forget_pause() { longest_ms_ = 0; }
  std::string trouble();  // 5xx and the like: what no client may ever see

 private:
  struct Ledger {
    std::set<std::string> delivered;         // acknowledged
    std::set<std::string> unknown;           // the answer was lost
    std::map<std::string, std::string> uid;  // subject to the UID that it was first seen under
    std::set<std::string> flagged;           // subjects whose flag was acknowledged
    std::string validity;                    // UIDVALIDITY of INBOX
  };
  void deliver(const std::stop_token& stop);
  void read(int user, const std::stop_token& stop);
  bool work(int user, Talk& imap);
  void note(std::string what);
  World& world_;
  std::mutex mutex_;
  std::map<std::string, Ledger> ledgers_;
  std::vector<std::string> trouble_;
  std::atomic<int> deliveries_ = 0;
  std::atomic<int> flags_ = 0;
  std::atomic<std::int64_t> longest_ms_ = 0;
  std::vector<std::jthread> threads_;
};

}  // namespace midstream::mail::test
