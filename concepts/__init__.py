"""Activations to concepts: factorizers, coefficients, recursion, how many concepts, their bank, names and quality."""

from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.baselines import PCA, KMeans, RandomDirections
from conceptatlas.concepts.embeddings import CachedEncoder
from conceptatlas.concepts.encoders import OpenClipEncoder, TextImageEncoder, check_encoder, embed_words
from conceptatlas.concepts.factorizers import FACTORIZERS, make_factorizer
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.naming import name_concepts
from conceptatlas.concepts.nmf import NMF
from conceptatlas.concepts.nnls import nnls, nnls_sweeps
from conceptatlas.concepts.pretrained import WeightsUnreachable
from conceptatlas.concepts.quality import (
    HIGHER_IS_BETTER,
    Coherence,
    coherence,
    coherence_against_chance,
    concept_sparsity,
    frechet,
    hoyer,
    iis,
    learnability,
    linear_faithfulness,
    match_components,
    perturbation_stability,
    r2,
    relative_l2,
    stability,
)
from conceptatlas.concepts.rank import KChoice, choose_n_components
from conceptatlas.concepts.records import ConceptRecord
from conceptatlas.concepts.recursion import RecursionRule, grow_tree, grow_tree_from_rows
from conceptatlas.concepts.sae import TopKSAE
from conceptatlas.concepts.scores import concept_contrasts
from conceptatlas.concepts.seminmf import SemiNMF
from conceptatlas.concepts.tree import ConceptNode, ConceptTree
from conceptatlas.concepts.vocabulary import Vocabulary, load_vocabulary

__all__ = [
    "CachedEncoder",
    "Coherence",
    "ConceptBank",
    "ConceptNode",
    "ConceptRecord",
    "ConceptTree",
    "FACTORIZERS",
    "HIGHER_IS_BETTER",
    "KChoice",
    "KMeans",
    "NMF",
    "Name",
    "OpenClipEncoder",
    "PCA",
    "RandomDirections",
    "RecursionRule",
    "SemiNMF",
    "TextImageEncoder",
    "TopKSAE",
    "Vocabulary",
    "WeightsUnreachable",
    "check_encoder",
    "choose_n_components",
    "coherence",
    "coherence_against_chance",
    "concept_contrasts",
    "concept_sparsity",
    "embed_words",
    "frechet",
    "grow_tree",
    "grow_tree_from_rows",
    "hoyer",
    "iis",
    "learnability",
    "linear_faithfulness",
    "load_vocabulary",
    "make_factorizer",
    "match_components",
    "name_concepts",
    "nnls",
    "nnls_sweeps",
    "perturbation_stability",
    "r2",
    "relative_l2",
    "stability",
]
