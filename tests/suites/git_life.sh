# git's life cycle. usage: git_life.sh REPOSITORY DIRECTORY
from=$1 at=$2
export GIT_AUTHOR_NAME=suite GIT_AUTHOR_EMAIL=suite@localhost GIT_COMMITTER_NAME=suite GIT_COMMITTER_EMAIL=suite@localhost
git clone -q --no-local "$from" "$at"
cd "$at"
git fsck --strict
git checkout -q -b topic
for number in $(seq 20); do
    echo "line $number" >>notes
    mkdir -p "deep/$number"
    echo "$number" >"deep/$number/file"
    git add -A
    git commit -q -m "topic $number"
done
git checkout -q -b other HEAD~20
echo other >>README.md
git commit -q -am "other"
git rebase -q other topic
test "$(git rev-list --count other..topic)" = 20
echo dirty >>README.md
git stash -q
test -z "$(git status --porcelain)"
git stash pop -q
git checkout -q -- README.md
git checkout -q other
git merge -q --no-ff -m merged topic
git mv notes moved
chmod +x moved
ln -s moved link
git add -A
git commit -q -m moved
git rm -rq deep
git commit -q -m removed
test ! -e deep
git reset -q --hard HEAD~1
test -e deep/20/file
git clean -fdxq
git worktree add -q ../worktree topic
git -C ../worktree status --porcelain
git worktree remove ../worktree
git repack -adq
git gc -q --prune=now
git fsck --strict --full
git clone -q . ../second
git -C ../second fsck --strict
diff -r --exclude=.git . ../second
test -z "$(git status --porcelain)"
rm -rf ../second
