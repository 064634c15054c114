# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12. Labels that are missing or wrong
#
# Some cells have a label, most have none, and some labels are wrong. A model can say all of this. Then a missing label
# is a latent that is summed out, and a wrong one is a noisy measurement. This chapter derives both, and compares them
# with what people do instead.

# %%
import matplotlib.pyplot as plt
import torch

from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced
from pyroscvi.distributions.annotation import Annotation

torch.manual_seed(12)

# %% [markdown]
# ## A label is a measurement of the type
#
# Cell $n$ has a type $y \sim \text{Categorical}(w)$ and counts $x_g \sim \text{Poisson}(l\,\rho_{yg})$, where $l$
# is the size of
# the cell and $\rho_{yg}$ the share of gene $g$ in type $y$. An annotator gives it the label $a$ with probability
# $C_{ya}$. The diagonal of $C$ is the **trust**: the probability that a label is right. Bayes' rule gives
#
# $$P(y \mid x, a) \;\propto\; w_y\, C_{ya} \prod_g \text{Poisson}(x_g; l \rho_{yg}).$$
#
# If the label is *missing*, every label is possible: $\sum_a C_{ya} = 1$, and the factor disappears. No new model is
# needed. `Annotation` in the library is this factor: a row of weights $v_a$ contributes $\sum_a C_{ya} v_a$.

# %%
C = torch.full((3, 3), 0.1).fill_diagonal_(0.8)
hard, missing = torch.tensor([1.0, 0.0, 0.0]), torch.ones(3)
print(
    "label 0:", Annotation(C).log_prob(hard).exp().tolist(), " missing:", Annotation(C).log_prob(missing).exp().tolist()
)
torch.testing.assert_close(Annotation(C).log_prob(hard).exp(), C[:, 0])
torch.testing.assert_close(Annotation(C).log_prob(missing), torch.zeros(3))


# %% [markdown]
# Maximum likelihood alternates two steps (the EM algorithm). First, the probabilities of all types, by the formula
# above. Then, shares and weights from the cells, each counted with its probabilities. Both steps are formulas.


# %%
def fit(x, labels, types, trust, rounds=40):
    """EM; labels are -1 where missing. Returns the probability of every type for every cell [n, types]."""
    C = torch.full((types, types), (1 - trust) / (types - 1)).fill_diagonal_(trust)
    log_C = C.clamp(min=1e-12).log()
    a = torch.where((labels >= 0).unsqueeze(1), log_C.T[labels.clamp(min=0)], 0.0)  # log C[y, label], or 0
    size = x.sum(1, keepdim=True)
    probability = a.softmax(1)  # to start with, what the labels say
    for _ in range(rounds):
        w = probability.mean(0)
        rates = probability.T @ x + 0.5  # half a molecule more: no share is zero
        share = rates / rates.sum(1, keepdim=True)
        log_p = x @ share.log().T - size * share.sum(1)  # Poisson, up to terms without y
        probability = (w.log() + a + log_p).softmax(1)
    return probability


def accuracy(probability, truth):
    return (probability.argmax(1) == truth).float().mean().item()


# %% [markdown]
# ## The truth is known
#
# 600 cells of three similar types, 30 genes, 40 counts per cell. Three cells of each type have a label.

# %%
n, g, types = 600, 30, 3
profile = (torch.randn(g) + 0.5 * torch.randn(types, g)).softmax(1)
truth = torch.randint(types, (n,))
x = torch.poisson(40 * profile[truth])
few = torch.full((n,), -1)
for y in range(types):
    few[(truth == y).nonzero()[:3, 0]] = y

best = (x @ profile.log().T).argmax(1)  # who knows the true profiles cannot do better
labelled = few >= 0
together = fit(x, few, types, 0.99)
alone = fit(x[labelled], few[labelled], types, 0.99, rounds=1)
rates = alone.T @ x[labelled] + 0.5
dropped = (x @ (rates / rates.sum(1, keepdim=True)).log().T).softmax(1)
scores = {
    "true profiles": (best == truth).float().mean().item(),
    "all cells, missing labels summed out": accuracy(together, truth),
    "labelled cells only": accuracy(dropped, truth),
}
for name, score in scores.items():
    print(f"{name:38s} {score:.1%} of the types are right")
assert scores["all cells, missing labels summed out"] > scores["true profiles"] - 0.04
assert scores["labelled cells only"] < scores["all cells, missing labels summed out"] - 0.01

# %% [markdown]
# Cells without a label helped, since their counts inform the profiles. Nine labels were enough to name the types.
#
# ## Wrong labels
#
# Now 60% of the cells have a label and a third of these labels is wrong. We fit with trust 0.67, and with trust 1: the
# label is the truth.

# %%
noisy = torch.full((n,), -1)
given = torch.rand(n) < 0.6
wrong = given & (torch.rand(n) < 1 / 3)
noisy[given] = truth[given]
noisy[wrong] = (truth[wrong] + 1 + torch.randint(types - 1, (int(wrong.sum()),))) % types
corrected = {trust: fit(x, noisy, types, trust) for trust in (0.67, 1.0)}
found = {trust: accuracy(p[wrong], truth[wrong]) for trust, p in corrected.items()}
for trust in found:
    print(f"trust {trust}: of {int(wrong.sum())} wrong labels, {found[trust]:.0%} were corrected")
assert found[0.67] > 0.65

# %% [markdown]
# ## Breaking it
#
# With trust 1 the factor $C_{ya}$ is zero for every other type, and no count can overrule a label. The profiles
# are mixed by wrong cells, too.

# %%
try:
    assert found[1.0] > 0.65, f"with trust 1, {found[1.0]:.0%} of the wrong labels were corrected"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# ## Real cells
#
# Three types of the blood cells, 100 variable genes. We keep the labels of four cells of each type, and hide the
# others. Then all cells have labels, of which a third is replaced at random.

# %%
adata = pbmc68k_reduced()
names = ["CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
adata = adata[adata.obs["bulk_labels"].isin(names), list(highly_variable(adata, 100))]
real = torch.from_numpy(adata.X.toarray()).float()
real_truth = torch.tensor([names.index(name) for name in adata.obs["bulk_labels"]])
few = torch.full((len(real),), -1)
for y in range(3):
    few[(real_truth == y).nonzero()[:4, 0]] = y
semi = accuracy(fit(real, few, 3, 0.99), real_truth)
print(f"{len(real)} cells, 12 labels: {semi:.1%} of all types are right")
assert semi > 0.85

replaced = torch.rand(len(real)) < 1 / 3
flipped = torch.where(replaced, (real_truth + 1 + torch.randint(2, (len(real),))) % 3, real_truth)
p = fit(real, flipped, 3, 0.67)
cured = accuracy(p[replaced], real_truth[replaced])
print(f"of {int(replaced.sum())} replaced labels, {cured:.0%} were found and corrected")
assert cured > 0.8

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
axes[0].barh(list(scores), list(scores.values()), color=["0.7", "C0", "C1"])
axes[0].set(xlim=(0.4, 1), xlabel="types that are right", title="Nine labels, 600 cells")
own = p.gather(1, flipped.unsqueeze(1)).squeeze(1)
axes[1].hist([own[~replaced], own[replaced]], bins=20, range=(0, 1), stacked=True, label=["right labels", "replaced"])
axes[1].set(xlabel="P(type = label | counts, label)", ylabel="cells", title="Which labels does the model doubt?")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# The picture is a practical tool: labels with a small probability are worth a second look.
#
# ## In the zoo
#
# `Annotated(trust=0.9)` and `SCANVI(trust=0.9)` are this model with a state $z$ and a network between the type and the
# counts. `Fields(label="cell_type", unlabelled="Unknown")` reads which labels are missing, and
# `fit.probabilities(cells, "y")` is Bayes' rule. Name the missing ones: a label "Unknown" that is read as one more
# *type* would pull cells of all kinds together.
#
# ## Exercises
#
# 1. Estimate the trust from the data of the section "Wrong labels".
# 2. The labels are missing mostly in one type, because the annotator was unsure there. Does summing out still work?
#
# ### Solutions
#
# 1. The expected share of right labels is the average probability that the type equals the label. Replace the trust by
#    it and repeat. Three rounds are enough below.
# 2. The profiles still work. The weights $w$ must be estimated from all cells, as here, and not from labelled ones. The
#    formula assumes that *whether* a label is missing says nothing about the type beyond the counts. If it does, that
#    must become part of the model.

# %%
trust = 0.9
for _ in range(3):
    p = fit(x[given], noisy[given], types, trust)
    trust = p.gather(1, noisy[given].unsqueeze(1)).mean().item()
print(f"estimated trust {trust:.2f}; truth {1 - wrong.sum().item() / given.sum().item():.2f}")
assert abs(trust - (1 - wrong.sum().item() / given.sum().item())) < 0.1
